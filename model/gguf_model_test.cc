// GGUF files of every family: keys that are read, those that are refused, fused tensors, longrope's
// tensors, and models in several files.

#include "model/gguf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/load_model.h"
#include "tests/support/gguf_writer.h"

namespace millrace::model {
namespace {

using testing::GgufWriter;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 40, kHidden = 32, kHeads = 2, kKvHeads = 1, kHeadDim = 16, kFf = 48;
constexpr int64_t kLayers = 2;

// A small model of a family, without the keys that a test sets itself.
GgufWriter Family(const std::string& arch, const std::function<void(GgufWriter&)>& change = {}) {
  GgufWriter w;
  std::mt19937_64 random(7);
  const auto tensor = [&](const std::string& name, std::vector<uint64_t> dims) {
    int64_t rows = 1;
    for (size_t i = 1; i < dims.size(); ++i) rows *= static_cast<int64_t>(dims[i]);
    w.Tensor(name, dims, 0,
             testing::RandomMatrix(kernels::WeightType::kF32, rows, static_cast<int64_t>(dims[0]),
                                   random));
  };
  w.String("general.architecture", arch);
  w.U32(arch + ".block_count", kLayers);
  w.U32(arch + ".context_length", 1024);
  w.U32(arch + ".embedding_length", kHidden);
  w.U32(arch + ".feed_forward_length", kFf);
  w.U32(arch + ".attention.head_count", kHeads);
  w.U32(arch + ".attention.head_count_kv", kKvHeads);
  w.F32(arch + ".attention.layer_norm_rms_epsilon", 1e-6f);
  const bool gemma = arch.rfind("gemma", 0) == 0;
  if (gemma) {
    w.U32(arch + ".attention.key_length", kHeadDim);
    w.U32(arch + ".attention.value_length", kHeadDim);
  }
  tensor("token_embd.weight", {kHidden, kVocab});
  tensor("output_norm.weight", {kHidden});
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    const uint64_t q = kHeads * kHeadDim, kv = kKvHeads * kHeadDim;
    tensor(layer + "attn_norm.weight", {kHidden});
    tensor(layer + "ffn_norm.weight", {kHidden});
    if (arch == "phi3") {
      tensor(layer + "attn_qkv.weight", {kHidden, q + 2 * kv});
      tensor(layer + "ffn_up.weight", {kHidden, 2 * kFf});
    } else {
      tensor(layer + "attn_q.weight", {kHidden, q});
      tensor(layer + "attn_k.weight", {kHidden, kv});
      tensor(layer + "attn_v.weight", {kHidden, kv});
      tensor(layer + "ffn_gate.weight", {kHidden, kFf});
      tensor(layer + "ffn_up.weight", {kHidden, kFf});
    }
    if (arch == "qwen2") {
      tensor(layer + "attn_q.bias", {q});
      tensor(layer + "attn_k.bias", {kv});
      tensor(layer + "attn_v.bias", {kv});
    }
    if (arch == "qwen3" || arch == "gemma3") {
      tensor(layer + "attn_q_norm.weight", {kHeadDim});
      tensor(layer + "attn_k_norm.weight", {kHeadDim});
    }
    if (gemma) {
      tensor(layer + "post_attention_norm.weight", {kHidden});
      tensor(layer + "post_ffw_norm.weight", {kHidden});
    }
    tensor(layer + "attn_output.weight", {q, kHidden});
    tensor(layer + "ffn_down.weight", {kFf, kHidden});
  }
  if (change) change(w);
  return w;
}

// Tensors point into `bytes`.
struct Described {
  std::string bytes;
  absl::StatusOr<ModelDescription> description;
};
std::unique_ptr<Described> Describe(const GgufWriter& w) {
  auto out = std::make_unique<Described>(Described{w.Build(), absl::UnknownError("")});
  const auto contents = ParseGguf(std::as_bytes(std::span(out->bytes)), "x.gguf");
  out->description = contents.ok() ? DescribeGguf(*contents) : contents.status();
  return out;
}
ModelConfig ConfigOf(const GgufWriter& w) {
  const auto described = Describe(w);
  EXPECT_TRUE(described->description.ok()) << described->description.status();
  return described->description.ok() ? described->description->config : ModelConfig();
}
void ExpectRefused(const GgufWriter& w, const std::string& says) {
  const absl::Status status = Describe(w)->description.status();
  EXPECT_FALSE(status.ok()) << "accepted; should say: " << says;
  EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  EXPECT_THAT(std::string(status.message()), HasSubstr("x.gguf"));
}

TEST(GgufModel, Families) {
  const ModelConfig llama = ConfigOf(Family("llama"));
  EXPECT_TRUE(llama.rope.interleaved);  // the converter's permutation
  EXPECT_FALSE(llama.qkv_bias);
  for (const char* arch : {"qwen2", "qwen3", "phi3", "gemma2", "gemma3"}) {
    EXPECT_FALSE(ConfigOf(Family(arch)).rope.interleaved) << arch;
  }
  EXPECT_TRUE(ConfigOf(Family("qwen2")).qkv_bias);
  EXPECT_TRUE(ConfigOf(Family("qwen3")).qk_norm);
  const ModelConfig gemma2 = ConfigOf(Family("gemma2", [](GgufWriter& w) {
    w.U32("gemma2.attention.sliding_window", 100);
    w.F32("gemma2.attn_logit_softcapping", 20);
  }));
  EXPECT_EQ(gemma2.window, 100);
  EXPECT_EQ(gemma2.local_layers, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(gemma2.attention_cap, 20);
  EXPECT_EQ(gemma2.logit_cap, 30);   // files older than the key
  EXPECT_EQ(gemma2.norm_offset, 0);  // the converter has added the one
  const ModelConfig first = ConfigOf(Family("gemma2", [](GgufWriter& w) { w.U32("gemma2.x", 1); }));
  EXPECT_EQ(first.window, 4096);  // and older than these
  EXPECT_EQ(first.attention_cap, 50);
  const ModelConfig gemma3 = ConfigOf(Family("gemma3", [](GgufWriter& w) {
    w.U32("gemma3.attention.sliding_window", 100);
    w.F32("gemma3.rope.freq_base", 1e6f);
    w.String("gemma3.rope.scaling.type", "linear");
    w.F32("gemma3.rope.scaling.factor", 8);
  }));
  EXPECT_EQ(gemma3.rope.freq_base, 1e6);
  EXPECT_EQ(gemma3.rope.factor, 8);
  ASSERT_TRUE(gemma3.local_rope.has_value());
  EXPECT_EQ(gemma3.local_rope->freq_base, 1e4);
  EXPECT_EQ(gemma3.local_rope->scaling, RopeScaling::kNone);
  const ModelConfig own = ConfigOf(Family("gemma3", [](GgufWriter& w) {
    w.U32("gemma3.attention.sliding_window", 100);
    w.F32("gemma3.rope.freq_base_swa", 5000);
    w.U32("gemma3.attention.sliding_window_pattern", 2);
  }));
  EXPECT_EQ(own.local_rope->freq_base, 5000);
  EXPECT_EQ(own.local_layers, (std::vector<uint8_t>{1, 0}));
  const ModelConfig listed = ConfigOf(Family("gemma3", [](GgufWriter& w) {
    w.U32("gemma3.attention.sliding_window", 100);
    w.Key("gemma3.attention.sliding_window_pattern", 9,
          GgufWriter::Bytes<uint32_t>(7) + GgufWriter::Bytes<uint64_t>(2) + std::string("\0\1", 2));
  }));
  EXPECT_EQ(listed.local_layers, (std::vector<uint8_t>{0, 1}));
  EXPECT_EQ(
      ConfigOf(Family("llama", [](GgufWriter& w) { w.U32("llama.attention.sliding_window", 64); }))
          .window,
      64);
}

TEST(GgufModel, Phi3IsSplitByRows) {
  const auto described = Describe(Family("phi3"));
  ASSERT_TRUE(described->description.ok()) << described->description.status();
  const auto& tensors = described->description->tensors;
  const auto* qkv = static_cast<const std::byte*>(tensors.at("layers.1.q").matrix.data);
  EXPECT_EQ(tensors.at("layers.1.q").matrix.rows, 32);
  EXPECT_EQ(tensors.at("layers.1.k").matrix.data, qkv + 32 * kHidden * 4);
  EXPECT_EQ(tensors.at("layers.1.v").matrix.data, qkv + 48 * kHidden * 4);
  EXPECT_EQ(tensors.at("layers.1.v").matrix.bytes, 16u * kHidden * 4);
  const auto* gate = static_cast<const std::byte*>(tensors.at("layers.1.gate").matrix.data);
  EXPECT_EQ(tensors.at("layers.1.up").matrix.data, gate + kFf * kHidden * 4);
  EXPECT_EQ(tensors.at("layers.1.up").matrix.rows, kFf);
  ExpectRefused(Family("phi3", [](GgufWriter& w) { w.U32("phi3.attention.key_length", 8); }), "");
}

TEST(GgufModel, RopeScalings) {
  const RopeConfig yarn = ConfigOf(Family("qwen2", [](GgufWriter& w) {
                            w.String("qwen2.rope.scaling.type", "yarn");
                            w.F32("qwen2.rope.scaling.factor", 4);
                            w.U32("qwen2.rope.scaling.original_context_length", 256);
                            w.F32("qwen2.rope.scaling.yarn_beta_fast", 16);
                          })).rope;
  EXPECT_EQ(yarn.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.beta_fast, 16);
  EXPECT_EQ(yarn.attention_factor, 0);
  // The file's factor multiplies yarn's own, 0.1 ln(4) + 1.
  const RopeConfig stretched = ConfigOf(Family("qwen2", [](GgufWriter& w) {
                                 w.String("qwen2.rope.scaling.type", "yarn");
                                 w.F32("qwen2.rope.scaling.factor", 4);
                                 w.U32("qwen2.rope.scaling.original_context_length", 256);
                                 w.F32("qwen2.rope.scaling.yarn_attn_factor", 0.5f);
                               })).rope;
  EXPECT_NEAR(stretched.attention_factor, 0.5 * (0.1 * std::log(4.0) + 1), 1e-6);
  const RopeConfig old =
      ConfigOf(Family("llama", [](GgufWriter& w) { w.F32("llama.rope.scale_linear", 2); })).rope;
  EXPECT_EQ(old.scaling, RopeScaling::kLinear);
  EXPECT_EQ(old.factor, 2);
  const auto factors = [](float value) {
    std::string out;
    for (int i = 0; i < kHeadDim / 2; ++i) out += GgufWriter::Bytes(value);
    return out;
  };
  const auto phi = [&](bool both) {
    return Family("phi3", [&](GgufWriter& w) {
      w.U32("phi3.rope.scaling.original_context_length", 256);
      w.F32("phi3.rope.scaling.attn_factor", 1.25f);
      w.Tensor("rope_factors_short.weight", {kHeadDim / 2}, 0, factors(1.5f));
      if (both) w.Tensor("rope_factors_long.weight", {kHeadDim / 2}, 0, factors(3));
    });
  };
  const RopeConfig longrope = ConfigOf(phi(true)).rope;
  EXPECT_EQ(longrope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(longrope.short_factors, std::vector<float>(8, 1.5f));
  EXPECT_EQ(longrope.long_factors, std::vector<float>(8, 3));
  EXPECT_EQ(longrope.factor, 4);
  EXPECT_EQ(longrope.attention_factor, 1.25);
  ExpectRefused(phi(false), "tensor 'rope_factors_long.weight' is missing");
  ExpectRefused(Family("phi3",
                       [&](GgufWriter& w) {
                         w.Tensor("rope_factors_short.weight", {7}, 0, std::string(28, 0));
                       }),
                "is not a vector of half the rotary size");
}

TEST(GgufModel, RefusedByName) {
  const std::tuple<const char*, const char*, uint32_t> rows[] = {
      {"qwen2", "attention.sliding_window", 64},
      {"qwen3", "attn_logit_softcapping", 50},
      {"gemma2", "attention.scale", 1},
      {"llama", "pooling_type", 1},
      {"llama", "rope.freq_base_swa", 1},
      {"llama", "rope.dimension_sections", 1},
      {"phi3", "expert_count", 2},
      {"llama", "rope.scaling.yarn_ext_factor", 2},
  };
  for (const auto& [arch, key, value] : rows) {
    const std::string full = std::string(arch) + "." + key;
    ExpectRefused(Family(arch, [&, v = value](GgufWriter& w) { w.U32(full, v); }),
                  "'" + full + "' is not supported");
  }
  ExpectRefused(Family("llama", [](GgufWriter& w) { w.Bool("llama.attention.causal", false); }),
                "attention.causal");
  ExpectRefused(Family("llama", [](GgufWriter& w) { w.F32("llama.rope.scaling.attn_factor", 2); }),
                "attn_factor");
  ExpectRefused(Family("mistral"), "architecture 'mistral' is not supported");
  ExpectRefused(Family("gemma3",
                       [](GgufWriter& w) {
                         w.U32("gemma3.attention.sliding_window", 64);
                         w.U32("gemma3.attention.sliding_window_pattern", 0);
                       }),
                "at least 1");
  ExpectRefused(Family("qwen2",
                       [](GgufWriter& w) {
                         w.Tensor("blk.0.attn_output.bias", {kHidden}, 0, std::string(128, 0));
                       }),
                "o_bias' is missing");
}

// The parts of a model of three files, in a directory of its own.
class SplitTest : public ::testing::Test {
 protected:
  SplitTest() {
    dir_ = ::testing::TempDir() + "/gguf_split_" + std::to_string(::getpid());
    std::filesystem::create_directories(dir_);
  }
  ~SplitTest() override { std::filesystem::remove_all(dir_); }
  std::string PartPath(int part, int of = 3) const {
    char name[64];
    std::snprintf(name, sizeof(name), "/m-%05d-of-%05d.gguf", part, of);
    return dir_ + name;
  }
  // Part 1 has the keys and most tensors; the others one matrix each.
  void Write(int64_t tensors = 21, uint16_t third_number = 2, const char* third = "c") const {
    GgufWriter first = Family("llama", [&](GgufWriter& w) {
      w.Key("split.count", 2, GgufWriter::Bytes<uint16_t>(3));
      w.Key("split.no", 2, GgufWriter::Bytes<uint16_t>(0));
      w.Key("split.tensors.count", 5, GgufWriter::Bytes(static_cast<int32_t>(tensors)));
    });
    testing::WriteFile(PartPath(1), first.Build());
    const auto other = [&](uint16_t number, const std::string& name) {
      GgufWriter w;
      w.Key("split.count", 2, GgufWriter::Bytes<uint16_t>(3));
      w.Key("split.no", 2, GgufWriter::Bytes<uint16_t>(number));
      if (!name.empty()) w.Tensor(name, {kHidden, kVocab}, 0, std::string(kHidden * kVocab * 4, 0));
      return w.Build();
    };
    testing::WriteFile(PartPath(2), other(1, "output.weight"));
    testing::WriteFile(PartPath(3), other(third_number, third == std::string("c") ? "" : third));
  }
  std::string Message(int part = 1) const {
    return std::string(ModelFile::Open(PartPath(part)).status().message());
  }
  std::string dir_;
};

TEST_F(SplitTest, PartsMakeOneModel) {
  Write();
  const auto file = ModelFile::Open(PartPath(1));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->files().size(), 3u);
  EXPECT_FALSE((*file)->description().config.tied_embeddings);
  EXPECT_EQ((*file)->description().tensors.at("head").file, PartPath(2));
}

TEST_F(SplitTest, PartsThatAreNone) {
  Write();
  EXPECT_THAT(Message(2), HasSubstr("part 2 of 3 of a split model; give the path of the first"));
  std::filesystem::rename(PartPath(1), dir_ + "/m.gguf");
  EXPECT_THAT(std::string(ModelFile::Open(dir_ + "/m.gguf").status().message()),
              HasSubstr("does not end in -00001-of-00003.gguf"));
  Write(22);
  EXPECT_THAT(Message(), HasSubstr("'split.tensors.count' is 22, but the parts have 21"));
  Write(21, 1);
  EXPECT_THAT(Message(), HasSubstr("m-00003-of-00003.gguf: says it is part 2 of 3"));
  Write(22, 2, "output.weight");
  EXPECT_THAT(Message(), HasSubstr("m-00003-of-00003.gguf: tensor 'output.weight' is in another"));
  Write();
  std::filesystem::remove(PartPath(2));
  EXPECT_THAT(Message(), HasSubstr("m-00002-of-00003.gguf: cannot open"));
  testing::WriteFile(PartPath(2), "GGUF");
  EXPECT_THAT(Message(), HasSubstr("m-00002-of-00003.gguf: the file ends inside"));
}

}  // namespace
}  // namespace millrace::model
