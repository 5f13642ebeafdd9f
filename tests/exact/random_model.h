#pragma once
// A small random Llama in memory, with awkward shapes on purpose: odd heads, GQA 3, sizes that are
// no multiple of 16. Its scores are spread, so that an error in attention is seen.

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model/architectures.h"

namespace millrace::testing {

// Owns the numbers that the description points to. Thread: one caller.
class RandomModel {
 public:
  explicit RandomModel(uint64_t seed) : random_(seed) {
    model::ModelConfig& c = description_.config;
    c.architecture = "llama";
    c.vocab_size = 151, c.hidden = 96, c.layers = 3, c.heads = 3, c.kv_heads = 1, c.head_dim = 32;
    c.feed_forward = 160, c.context_length = 512, c.norm_eps = 1e-5;
    c.rope.freq_base = 10000, c.rope.rotary_dim = 32;
    description_.source = "random", description_.format = "F32";
    Add("embedding", 151, 96, 1.0f);
    Add("final_norm", 1, 96, 0.1f, 1.0f);
    Add("head", 151, 96, 0.5f);
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      const auto name = [&](const char* part) { return model::LayerTensor(layer, part); };
      Add(name("attn_norm"), 1, 96, 0.1f, 1.0f);
      Add(name("q"), 96, 96, 0.25f);
      Add(name("k"), 32, 96, 0.25f);
      Add(name("v"), 32, 96, 0.2f);
      Add(name("o"), 96, 96, 0.2f);
      Add(name("ffn_norm"), 1, 96, 0.1f, 1.0f);
      Add(name("gate"), 160, 96, 0.15f);
      Add(name("up"), 160, 96, 0.15f);
      Add(name("down"), 96, 160, 0.15f);
    }
  }

  const model::ModelDescription& description() const { return description_; }

 private:
  void Add(std::string name, int64_t rows, int64_t cols, float spread, float mean = 0) {
    auto values = std::make_unique<std::vector<float>>(static_cast<size_t>(rows * cols));
    for (float& value : *values) value = mean + spread * normal_(random_);
    model::RawTensor tensor;
    tensor.file_name = name;
    tensor.matrix = {kernels::WeightType::kF32, rows, cols, values->data(),
                     values->size() * sizeof(float)};
    description_.tensors.emplace(std::move(name), std::move(tensor));
    storage_.push_back(std::move(values));
  }

  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
  std::vector<std::unique_ptr<std::vector<float>>> storage_;
  model::ModelDescription description_;
};

}  // namespace millrace::testing
