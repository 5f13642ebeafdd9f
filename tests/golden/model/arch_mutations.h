#pragma once
// Ways to get an architecture wrong, each in one place. A golden is judged by every one that
// applies to its model: the test fails unless the golden sees it, 20 times over.

#include <string>
#include <vector>

#include "model/architectures.h"
#include "tests/golden/model/oracle_run.h"

namespace millrace::golden {

struct ArchMutation {
  const char* name;
  bool (*applies)(const model::ModelConfig& config);
  void (*apply)(Mutant& mutant);
};

inline void ForRopes(Mutant& m, void (*change)(model::RopeConfig& rope)) {
  change(m.description.config.rope);
  if (m.description.config.local_rope.has_value()) change(*m.description.config.local_rope);
}

inline void EraseTensors(Mutant& m, std::initializer_list<const char*> names) {
  for (int64_t i = 0; i < m.description.config.layers; ++i) {
    for (const char* name : names) m.description.tensors.erase(model::LayerTensor(i, name));
  }
}

// Rows of each head in the order that GGUF's converter gives Llama's: 0, d/2, 1, d/2 + 1, ...
inline void PermuteForPairs(Mutant& m, const char* name, int64_t heads) {
  for (int64_t layer = 0; layer < m.description.config.layers; ++layer) {
    const std::string tensor = model::LayerTensor(layer, name);
    const kernels::RawMatrix before = m.description.tensors.at(tensor).matrix;
    const auto* from = static_cast<const std::byte*>(before.data);
    std::byte* to = m.Own(tensor);
    const size_t row = before.bytes / static_cast<size_t>(before.rows);
    const int64_t dim = before.rows / heads;
    for (int64_t r = 0; r < before.rows; ++r) {
      const int64_t i = r % dim, source = r - i + (i % 2) * dim / 2 + i / 2;
      std::memcpy(to + static_cast<size_t>(r) * row, from + static_cast<size_t>(source) * row, row);
    }
  }
}

inline void SwapTensors(Mutant& m, const char* a, const char* b) {
  std::swap(m.description.tensors.at(model::LayerTensor(0, a)).matrix,
            m.description.tensors.at(model::LayerTensor(0, b)).matrix);
}

using Config = model::ModelConfig;

inline bool Always(const Config&) {
  return true;
}

inline std::vector<ArchMutation> RopeMutations() {
  return {
      {"rope off", Always,
       [](Mutant& m) {
         ForRopes(m, [](model::RopeConfig& rope) {
           rope.freq_factors.assign(static_cast<size_t>(rope.rotary_dim / 2), 1e30f);
         });
       }},
      {"theta x2", Always, [](Mutant& m) { m.description.config.rope.freq_base *= 2; }},
      {"local theta x2", [](const Config& c) { return c.local_rope.has_value(); },
       [](Mutant& m) { m.description.config.local_rope->freq_base *= 2; }},
      {"local layers with the global rope",
       [](const Config& c) { return c.local_rope.has_value(); },
       [](Mutant& m) { m.description.config.local_rope.reset(); }},
      {"pairs interleaved", Always,
       [](Mutant& m) {
         ForRopes(m, [](model::RopeConfig& rope) { rope.interleaved = !rope.interleaved; });
       }},
      {"q and k rows permuted", Always,
       [](Mutant& m) {
         PermuteForPairs(m, "q", m.description.config.heads);
         PermuteForPairs(m, "k", m.description.config.kv_heads);
       }},
      {"rope scaling off",
       [](const Config& c) { return c.rope.scaling != model::RopeScaling::kNone; },
       [](Mutant& m) { m.description.config.rope.scaling = model::RopeScaling::kNone; }},
      {"rope factor +5 %",
       [](const Config& c) {
         return c.rope.scaling != model::RopeScaling::kNone &&
                c.rope.scaling != model::RopeScaling::kLongRope;
       },
       [](Mutant& m) {
         model::RopeConfig& rope = m.description.config.rope;
         rope.attention_factor = static_cast<double>(model::RopeAttentionFactor(rope));
         rope.factor *= 1.05;
       }},
      {"attention factor off",
       [](const Config& c) { return model::RopeAttentionFactor(c.rope) != 1; },
       [](Mutant& m) { m.description.config.rope.attention_factor = 1; }},
      {"yarn's beta_fast as by default",
       [](const Config& c) { return c.rope.scaling == model::RopeScaling::kYarn; },
       [](Mutant& m) { m.description.config.rope.beta_fast = 32; }},
      {"llama3's high factor 4 to 5",
       [](const Config& c) { return c.rope.scaling == model::RopeScaling::kLlama3; },
       [](Mutant& m) { m.description.config.rope.high_freq_factor = 5; }},
      {"long and short factors swapped",
       [](const Config& c) { return c.rope.scaling == model::RopeScaling::kLongRope; },
       [](Mutant& m) {
         std::swap(m.description.config.rope.long_factors, m.description.config.rope.short_factors);
       }},
      {"rotary part two less", [](const Config& c) { return c.rope.rotary_dim < c.head_dim; },
       [](Mutant& m) {
         model::RopeConfig& rope = m.description.config.rope;
         rope.rotary_dim -= 2;
         rope.long_factors.pop_back();
         rope.short_factors.pop_back();
       }},
  };
}

inline std::vector<ArchMutation> AttentionMutations() {
  const auto windowed = [](const Config& c) { return c.window > 0; };
  const auto mixed = [](const Config& c) { return model::LayerGroups(c).size() == 2; };
  return {
      {"heads 0 and last of q swapped, layer 0", Always,
       [](Mutant& m) {
         const Config& c = m.description.config;
         SwapRows(m, "layers.0.q", 0, (c.heads - 1) * c.head_dim, c.head_dim);
       }},
      {"heads 0 and last of k swapped, layer 0", [](const Config& c) { return c.kv_heads > 1; },
       [](Mutant& m) {
         const Config& c = m.description.config;
         SwapRows(m, "layers.0.k", 0, (c.kv_heads - 1) * c.head_dim, c.head_dim);
       }},
      {"k and v swapped, layer 0", Always, [](Mutant& m) { SwapTensors(m, "k", "v"); }},
      {"window +1", windowed, [](Mutant& m) { m.description.config.window += 1; }},
      {"window -1", windowed, [](Mutant& m) { m.description.config.window -= 1; }},
      {"window off", windowed,
       [](Mutant& m) { m.description.config.window = m.description.config.context_length; }},
      {"all layers local", mixed, [](Mutant& m) { m.description.config.local_layers.clear(); }},
      {"local and global swapped", mixed,
       [](Mutant& m) {
         for (uint8_t& local : m.description.config.local_layers) local ^= 1;
       }},
      {"cap of scores off", [](const Config& c) { return c.attention_cap > 0; },
       [](Mutant& m) { m.description.config.attention_cap = 0; }},
      {"cap of scores +5 %", [](const Config& c) { return c.attention_cap > 0; },
       [](Mutant& m) { m.description.config.attention_cap *= 1.05; }},
      {"query scale by head size", [](const Config& c) { return c.query_scale != 0; },
       [](Mutant& m) { m.description.config.query_scale = 0; }},
      {"q and k norms off", [](const Config& c) { return c.qk_norm; },
       [](Mutant& m) {
         m.description.config.qk_norm = false;
         EraseTensors(m, {"q_norm", "k_norm"});
       }},
      {"q and k norms swapped, layer 0", [](const Config& c) { return c.qk_norm; },
       [](Mutant& m) { SwapTensors(m, "q_norm", "k_norm"); }},
      {"biases of q, k, v off", [](const Config& c) { return c.qkv_bias; },
       [](Mutant& m) {
         m.description.config.qkv_bias = false;
         EraseTensors(m, {"q_bias", "k_bias", "v_bias"});
       }},
      {"biases of k and v swapped, layer 0", [](const Config& c) { return c.qkv_bias; },
       [](Mutant& m) { SwapTensors(m, "k_bias", "v_bias"); }},
      {"bias of o off", [](const Config& c) { return c.o_bias; },
       [](Mutant& m) {
         m.description.config.o_bias = false;
         EraseTensors(m, {"o_bias"});
       }},
  };
}

inline std::vector<ArchMutation> LayerMutations() {
  return {
      {"gate and up swapped, layer 0", Always, [](Mutant& m) { SwapTensors(m, "gate", "up"); }},
      {"the other activation", Always,
       [](Mutant& m) {
         kernels::Activation& a = m.description.config.activation;
         a = a == kernels::Activation::kSilu ? kernels::Activation::kGeluTanh
                                             : kernels::Activation::kSilu;
       }},
      {"norms of attention and feed-forward swapped, layer 0", Always,
       [](Mutant& m) { SwapTensors(m, "attn_norm", "ffn_norm"); }},
      {"norms without the one", [](const Config& c) { return c.norm_offset != 0; },
       [](Mutant& m) { m.description.config.norm_offset = 0; }},
      {"norms after the halves off", [](const Config& c) { return c.post_norms; },
       [](Mutant& m) {
         m.description.config.post_norms = false;
         EraseTensors(m, {"attn_post_norm", "ffn_post_norm"});
       }},
      {"norms after and before swapped, layer 0", [](const Config& c) { return c.post_norms; },
       [](Mutant& m) { SwapTensors(m, "attn_post_norm", "ffn_norm"); }},
      {"embedding scale off", [](const Config& c) { return c.embedding_scale != 0; },
       [](Mutant& m) { m.description.config.embedding_scale = 0; }},
      {"cap of logits off", [](const Config& c) { return c.logit_cap > 0; },
       [](Mutant& m) { m.description.config.logit_cap = 0; }},
      {"epsilon of norms x100", Always, [](Mutant& m) { m.description.config.norm_eps *= 100; }},
  };
}

inline std::vector<ArchMutation> ArchMutations() {
  std::vector<ArchMutation> out = RopeMutations();
  for (const ArchMutation& mutation : AttentionMutations()) out.push_back(mutation);
  for (const ArchMutation& mutation : LayerMutations()) out.push_back(mutation);
  return out;
}

}  // namespace millrace::golden
