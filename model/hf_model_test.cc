// Whole checkpoints of every family and every way of quantization: what the reader makes of them,
// value by value, and what it says of those that lie (QZ-01 .. QZ-03, ST-08).

#include "model/hf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/load_model.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

namespace fs = std::filesystem;
using kernels::WeightType;
using ::testing::HasSubstr;
using testing::HfModel;
using testing::HfShape;
using testing::SafetensorsWriter;

constexpr char kDown[] = "model.layers.1.mlp.down_proj";

class HfModelTest : public ::testing::Test {
 protected:
  HfModelTest() {
    dir_ = (fs::path(::testing::TempDir()) /
            ("hfmodel_" + std::to_string(::getpid()) +
             ::testing::UnitTest::GetInstance()->current_test_info()->name()))
               .string();
    fs::remove_all(dir_);
  }
  ~HfModelTest() override { fs::remove_all(dir_); }

  absl::StatusOr<std::unique_ptr<ModelFile>> Open(const HfModel& model, int shards = 1) const {
    fs::remove_all(dir_);
    model.Write(dir_, shards);
    return ModelFile::Open(dir_);
  }
  absl::Status Load(const HfModel& model) const {
    auto file = Open(model);
    if (!file.ok()) return file.status();
    ThreadPool pool({.workers = 1, .pin = false});
    kernels::Stream stream(pool, kernels::ComputeMode::kExact);
    return LoadModel(std::move(*file), {}, stream).status();
  }
  void ExpectRefused(const HfModel& model, const std::string& says,
                     const std::string& file = "model.safetensors") const {
    const absl::Status status = Load(model);
    EXPECT_FALSE(status.ok()) << "accepted; should say: " << says;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(says));
    EXPECT_THAT(message, HasSubstr(dir_));
    EXPECT_THAT(message, HasSubstr(file));
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }

  std::string dir_;
};

float HalfAt(const std::string& bytes, int64_t i) {
  uint16_t half;
  std::memcpy(&half, bytes.data() + 2 * i, 2);
  const float value =
      std::ldexp(static_cast<float>((half & 0x3ff) | 0x400), ((half >> 10) & 31) - 25);
  return (half & 0x8000) != 0 ? -value : value;
}

float BrainAt(const std::string& bytes, int64_t i) {
  uint16_t high;
  std::memcpy(&high, bytes.data() + 2 * i, 2);
  const uint32_t bits = uint32_t{high} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint32_t WordAt(const std::string& bytes, int64_t i) {
  uint32_t word;
  std::memcpy(&word, bytes.data() + 4 * i, 4);
  return word;
}

std::vector<float> RowOf(const kernels::RawMatrix& matrix, int64_t row) {
  std::vector<float> out(static_cast<size_t>(matrix.cols));
  kernels::DequantizeRawRow(matrix, row, out.data());
  return out;
}

// value(row, col) of the whole module against the reader's view, whose first row is `first`.
void ExpectValues(const kernels::RawMatrix& matrix, int64_t first,
                  const std::function<float(int64_t, int64_t)>& value) {
  ThreadPool pool({.workers = 1, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  const auto packed = kernels::PackedMatrix::Pack(matrix, stream);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->bytes(), kernels::PackedMatrix::PackedBytes(matrix));
  std::vector<float> unpacked(static_cast<size_t>(matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) {
    const std::vector<float> row = RowOf(matrix, r);
    packed->UnpackRow(r, unpacked.data());
    for (int64_t k = 0; k < matrix.cols; ++k) {
      ASSERT_EQ(row[static_cast<size_t>(k)], value(first + r, k)) << r << " " << k;
      ASSERT_EQ(unpacked[static_cast<size_t>(k)], value(first + r, k)) << r << " " << k;
    }
  }
}

TEST_F(HfModelTest, EveryFamilyLoads) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"}) {
    for (const char* plain : {"F32", "F16", "BF16"}) {
      HfShape shape;
      shape.model_type = type;
      shape.type = plain;
      shape.tied = std::string(type) == "gemma2" || plain == std::string("BF16");
      const HfModel model(shape);
      const auto file = Open(model, plain == std::string("F16") ? 3 : 1);
      ASSERT_TRUE(file.ok()) << type << ": " << file.status();
      const ModelDescription& d = (*file)->description();
      EXPECT_EQ(d.format, std::string("safetensors ") + plain);
      EXPECT_EQ(d.config.vocab_size, 64);
      EXPECT_EQ(d.tensors.at("layers.1.down").matrix.cols, 96);
      EXPECT_EQ(d.tensors.contains("head"), !shape.tied);
      EXPECT_EQ(d.tensors.contains("layers.0.k_bias"), std::string(type) == "qwen2");
      EXPECT_EQ(d.tensors.contains("layers.0.ffn_post_norm"), std::string(type).front() == 'g');
      EXPECT_TRUE(Load(model).ok()) << type << ": " << Load(model);
    }
  }
}

TEST_F(HfModelTest, FusedTensorsAreSplitByRows) {
  HfShape shape;
  shape.model_type = "phi3";
  shape.heads = 3, shape.kv_heads = 1, shape.hidden = 48;
  HfModel model(shape);
  auto file = Open(model);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto expect = [&](const char* neutral, const std::string& module, int64_t first,
                          int64_t rows) {
    const RawTensor& tensor = (*file)->description().tensors.at(neutral);
    EXPECT_EQ(tensor.matrix.rows, rows) << neutral;
    const std::string& data = model.weights().tensors().at(module + ".weight").data;
    ExpectValues(tensor.matrix, first, [&](int64_t r, int64_t k) {
      float value;
      std::memcpy(&value, data.data() + 4 * (r * tensor.matrix.cols + k), 4);
      return value;
    });
  };
  const std::string qkv = "model.layers.1.self_attn.qkv_proj";
  expect("layers.1.q", qkv, 0, 48);
  expect("layers.1.k", qkv, 48, 16);
  expect("layers.1.v", qkv, 64, 16);
  expect("layers.1.gate", "model.layers.1.mlp.gate_up_proj", 0, 96);
  expect("layers.1.up", "model.layers.1.mlp.gate_up_proj", 96, 96);
  EXPECT_EQ(FileBytes((*file)->description()), model.weights().Data().size());
}

std::string GptqConfig(int bits, int64_t group, bool order, bool second) {
  return R"({"quant_method":"gptq","sym":false,"bits":)" + std::to_string(bits) +
         ",\"group_size\":" + std::to_string(group) +
         ",\"desc_act\":" + (order ? "true" : "false") + ",\"checkpoint_format\":\"" +
         (second ? "gptq_v2" : "gptq") + "\"}";
}

TEST_F(HfModelTest, GptqValues) {
  for (int bits : {4, 8}) {
    // 96 inputs: 64, 40 and 7 leave a short last group, 128 is more than there are.
    for (int64_t group : {-1, 32, 64, 40, 7, 128}) {
      for (int variant = 0; variant < 4; ++variant) {
        const bool order = variant % 2 == 1, second = variant / 2 == 1;
        HfModel model({});
        model.Gptq(kDown, bits, group, order);
        model.Set("quantization_config", *Json::Parse(GptqConfig(bits, group, order, second)));
        const auto file = Open(model);
        ASSERT_TRUE(file.ok()) << file.status();
        auto& t = model.weights().tensors();
        const std::string& codes = t.at(std::string(kDown) + ".qweight").data;
        const std::string& zeros = t.at(std::string(kDown) + ".qzeros").data;
        const std::string& scales = t.at(std::string(kDown) + ".scales").data;
        const std::string& index = t.at(std::string(kDown) + ".g_idx").data;
        const int64_t n = 64, p = 32 / bits, mask = (1 << bits) - 1;
        const kernels::RawMatrix& matrix =
            (*file)->description().tensors.at("layers.1.down").matrix;
        EXPECT_EQ(matrix.groups->g_idx != nullptr, order && group > 0 && group < 96);
        ExpectValues(matrix, 0, [&](int64_t r, int64_t k) {
          const int64_t g = WordAt(index, k);
          const int64_t q = WordAt(codes, k / p * n + r) >> (bits * (k % p)) & mask;
          const int64_t z = WordAt(zeros, g * (n / p) + r / p) >> (bits * (r % p)) & mask;
          return static_cast<float>(q - z - (second ? 0 : 1)) * HalfAt(scales, g * n + r);
        });
        EXPECT_TRUE(Load(model).ok()) << Load(model);
      }
    }
  }
}

// As the 576 inputs of SmolLM2-135M in groups of 128: 4 whole ones and one of 64.
TEST_F(HfModelTest, GptqWithAShortLastGroup) {
  HfShape shape;
  shape.feed_forward = 576;
  for (bool order : {false, true}) {
    HfModel model(shape);
    model.Gptq(kDown, 4, 128, order);
    model.Set("quantization_config", *Json::Parse(GptqConfig(4, 128, order, false)));
    auto& t = model.weights().tensors();
    const auto leaf = [&](const char* name) -> SafetensorsWriter::Tensor& {
      return t.at(std::string(kDown) + name);
    };
    EXPECT_EQ(leaf(".scales").shape, (std::vector<int64_t>{5, 64}));
    const auto file = Open(model);
    ASSERT_TRUE(file.ok()) << file.status();
    ExpectValues(
        (*file)->description().tensors.at("layers.1.down").matrix, 0, [&](int64_t r, int64_t k) {
          const int64_t g = order ? WordAt(leaf(".g_idx").data, k) : k / 128;
          const int64_t q = WordAt(leaf(".qweight").data, k / 8 * 64 + r) >> (4 * (k % 8)) & 15;
          const int64_t z = WordAt(leaf(".qzeros").data, g * 8 + r / 8) >> (4 * (r % 8)) & 15;
          return static_cast<float>(q - z - 1) * HalfAt(leaf(".scales").data, g * 64 + r);
        });
    EXPECT_TRUE(Load(model).ok()) << Load(model);
    // Rounded down, as nobody writes it.
    leaf(".scales").shape[0] = 4;
    leaf(".scales").data.resize(4 * 64 * 2);
    ExpectRefused(model, "has shape [4, 64]; the others need [5, 64]");
  }
}

TEST_F(HfModelTest, GptqOfFusedTensors) {
  HfShape shape;
  shape.model_type = "phi3";
  HfModel model(shape);
  const std::string qkv = "model.layers.0.self_attn.qkv_proj";
  model.Gptq(qkv, 4, 16, true);
  model.Set("quantization_config", *Json::Parse(GptqConfig(4, 16, true, false)));
  const auto file = Open(model);
  ASSERT_TRUE(file.ok()) << file.status();
  auto& t = model.weights().tensors();
  const int64_t n = 128;
  ExpectValues(
      (*file)->description().tensors.at("layers.0.k").matrix, 64, [&](int64_t r, int64_t k) {
        const int64_t g = WordAt(t.at(qkv + ".g_idx").data, k);
        const int64_t q = WordAt(t.at(qkv + ".qweight").data, k / 8 * n + r) >> (4 * (k % 8)) & 15;
        const int64_t z =
            WordAt(t.at(qkv + ".qzeros").data, g * n / 8 + r / 8) >> (4 * (r % 8)) & 15;
        return static_cast<float>(q - z - 1) * HalfAt(t.at(qkv + ".scales").data, g * n + r);
      });
  EXPECT_TRUE(Load(model).ok()) << Load(model);
}

TEST_F(HfModelTest, AwqValues) {
  HfModel model({});
  model.Awq(kDown, 32);
  model.Set("quantization_config", *Json::Parse(R"({"quant_method":"awq","bits":4,
      "group_size":32,"zero_point":true,"version":"gemm"})"));
  const auto file = Open(model);
  ASSERT_TRUE(file.ok()) << file.status();
  auto& t = model.weights().tensors();
  const int64_t n = 64;
  const int order[] = {0, 4, 1, 5, 2, 6, 3, 7};  // the nibble of column 0, 1, ...
  ExpectValues(
      (*file)->description().tensors.at("layers.1.down").matrix, 0, [&](int64_t r, int64_t k) {
        const int shift = 4 * order[r % 8];
        const int64_t q =
            WordAt(t.at(std::string(kDown) + ".qweight").data, k * (n / 8) + r / 8) >> shift & 15;
        const int64_t z =
            WordAt(t.at(std::string(kDown) + ".qzeros").data, k / 32 * (n / 8) + r / 8) >> shift &
            15;
        return static_cast<float>(q - z) *
               HalfAt(t.at(std::string(kDown) + ".scales").data, k / 32 * n + r);
      });
  EXPECT_THAT((*file)->description().format, HasSubstr("AWQ 4-bit g32 asymmetric, F32 head"));
}

// All matrices of the layers, as the configuration's "Linear" says.
Json CompressedConfig(int bits, int64_t group, bool symmetric) {
  return *Json::Parse(
      R"({"quant_method":"compressed-tensors","format":"pack-quantized","ignore":["lm_head"],
          "config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":)" +
      std::to_string(bits) + ",\"symmetric\":" + (symmetric ? "true" : "false") +
      (group > 0 ? ",\"strategy\":\"group\",\"group_size\":" + std::to_string(group)
                 : std::string(",\"strategy\":\"channel\"")) +
      "}}}}");
}

TEST_F(HfModelTest, CompressedTensorsValues) {
  for (int bits : {4, 8}) {
    for (int64_t group : {int64_t{-1}, int64_t{32}}) {
      for (bool symmetric : {true, false}) {
        HfModel model({});
        for (const std::string& module : model.Linears()) {
          model.PackQuantized(module, bits, group, symmetric);
        }
        model.Set("quantization_config", CompressedConfig(bits, group, symmetric));
        const auto file = Open(model);
        ASSERT_TRUE(file.ok()) << file.status();
        auto& t = model.weights().tensors();
        const int64_t p = 32 / bits, mask = (1 << bits) - 1, half = 1 << (bits - 1);
        const int64_t groups = group > 0 ? 96 / group : 1;
        ExpectValues((*file)->description().tensors.at("layers.1.down").matrix, 0,
                     [&](int64_t r, int64_t k) {
                       const std::string m = kDown;
                       const int64_t g = group > 0 ? k / group : 0;
                       const int64_t q =
                           WordAt(t.at(m + ".weight_packed").data, r * (96 / p) + k / p) >>
                               (bits * (k % p)) &
                           mask;
                       const int64_t z = symmetric ? half
                                                   : WordAt(t.at(m + ".weight_zero_point").data,
                                                            r / p * groups + g) >>
                                                             (bits * (r % p)) &
                                                         mask;
                       return static_cast<float>(q - z) *
                              BrainAt(t.at(m + ".weight_scale").data, r * groups + g);
                     });
        EXPECT_TRUE(Load(model).ok()) << Load(model);
      }
    }
  }
}

// Their packers refuse such a matrix, so a file that has one is not theirs.
TEST_F(HfModelTest, OnlyGptqHasAShortLastGroup) {
  HfModel awq({});
  awq.Awq(kDown, 48);  // as many as 64 would need, rounded up
  awq.Set("quantization_config",
          *Json::Parse(R"({"quant_method":"awq","bits":4,"group_size":64})"));
  ExpectRefused(awq, "down_proj.qweight' has 96 inputs, no multiple of the group size 64");
  awq.Set("quantization_config",
          *Json::Parse(R"({"quant_method":"awq","bits":4,"group_size":48})"));
  EXPECT_TRUE(Load(awq).ok()) << Load(awq);
  const auto packed = [](int64_t group) {
    HfModel model({});
    for (const std::string& module : model.Linears()) {
      model.PackQuantized(module, 4, group, true);
    }
    model.Set("quantization_config", CompressedConfig(4, group, true));
    return model;
  };
  ExpectRefused(packed(64),
                "down_proj.weight_packed' has 96 inputs, no multiple of the group size");
  EXPECT_TRUE(Load(packed(128)).ok()) << Load(packed(128));
}

// Old writers did not pad the header: every tensor lies at an odd address.
TEST_F(HfModelTest, UnalignedFilesAreTheSameModel) {
  const auto models = [] {
    std::vector<HfModel> out;
    for (const char* plain : {"F32", "F16", "BF16"}) {
      HfShape shape;
      shape.type = plain;
      out.emplace_back(shape);
    }
    out.emplace_back(HfShape{});
    out.back().Gptq(kDown, 4, 32, true);
    out.back().Set("quantization_config", *Json::Parse(GptqConfig(4, 32, true, false)));
    out.emplace_back(HfShape{});
    out.back().Awq(kDown, 32);
    out.back().Set("quantization_config",
                   *Json::Parse(R"({"quant_method":"awq","bits":4,"group_size":32})"));
    out.emplace_back(HfShape{});
    for (const std::string& module : out.back().Linears()) {
      out.back().PackQuantized(module, 8, 32, false);
    }
    out.back().Set("quantization_config", CompressedConfig(8, 32, false));
    return out;
  }();
  for (HfModel model : models) {
    const auto aligned = Open(model);
    ASSERT_TRUE(aligned.ok()) << aligned.status();
    std::map<std::string, std::vector<float>> rows;
    for (const auto& [name, tensor] : (*aligned)->description().tensors) {
      for (int64_t r = 0; r < tensor.matrix.rows; ++r) {
        const std::vector<float> row = RowOf(tensor.matrix, r);
        rows[name].insert(rows[name].end(), row.begin(), row.end());
      }
    }
    for (size_t over : {1, 3}) {
      model.weights().set_header_over(over);
      const auto file = Open(model);
      ASSERT_TRUE(file.ok()) << file.status();
      EXPECT_EQ((*file)->description().tensors.size(), rows.size());
      for (const auto& [name, tensor] : (*file)->description().tensors) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.matrix.data) % 2, 1u) << name;
        const std::vector<float>& want = rows.at(name);
        const int64_t cols = tensor.matrix.cols;
        ExpectValues(tensor.matrix, 0,
                     [&](int64_t r, int64_t k) { return want[static_cast<size_t>(r * cols + k)]; });
      }
      EXPECT_TRUE(Load(model).ok()) << Load(model);
    }
  }
}

TEST_F(HfModelTest, Int8Values) {
  HfModel model({});
  for (const std::string& module : model.Linears()) model.Int8(module);
  model.Set(
      "quantization_config",
      *Json::Parse(
          R"({"quant_method":"compressed-tensors","format":"int-quantized","ignore":["lm_head"],
          "config_groups":{"g":{"targets":["Linear"],
          "weights":{"num_bits":8,"symmetric":true,"strategy":"channel"},
          "input_activations":{"num_bits":8,"symmetric":true,"dynamic":true,"strategy":"token"}}}})"));
  const auto file = Open(model);
  ASSERT_TRUE(file.ok()) << file.status();
  auto& t = model.weights().tensors();
  ExpectValues(
      (*file)->description().tensors.at("layers.1.down").matrix, 0, [&](int64_t r, int64_t k) {
        const std::string m = kDown;
        return static_cast<float>(
                   static_cast<int8_t>(t.at(m + ".weight").data[static_cast<size_t>(r * 96 + k)])) *
               BrainAt(t.at(m + ".weight_scale").data, r);
      });
  EXPECT_TRUE(Load(model).ok()) << Load(model);
}

// A GPTQ model whose down projection is then changed.
HfModel Gptq(bool order, const std::function<void(SafetensorsWriter&)>& change) {
  HfModel model({});
  model.Gptq(kDown, 4, 32, order);
  model.Set("quantization_config", *Json::Parse(GptqConfig(4, 32, order, false)));
  change(model.weights());
  return model;
}

TEST_F(HfModelTest, Qz01Indices) {
  const std::string name = std::string(kDown) + ".g_idx";
  const auto with = [&](int32_t value) {
    return Gptq(true, [&](SafetensorsWriter& w) {
      std::memcpy(w.tensors().at(name).data.data() + 4 * 17, &value, 4);
    });
  };
  for (int32_t value : {3, -1, INT32_MAX, INT32_MIN}) {
    ExpectRefused(with(value), "g_idx' [17] is " + std::to_string(value) + "; there are 3 groups");
  }
  ExpectRefused(Gptq(true, [&](SafetensorsWriter& w) { w.tensors().erase(name); }),
                "has no 'g_idx' beside it");
  ExpectRefused(Gptq(false, [&](SafetensorsWriter& w) { w.tensors().at(name).data[0] = 1; }),
                "says no act-order");
  ExpectRefused(
      Gptq(true, [&](SafetensorsWriter& w) { w.Add(name, "I32", {1}, std::string(4, 0)); }),
      "has shape [1]");
  ExpectRefused(
      Gptq(true, [&](SafetensorsWriter& w) { w.Add(name, "I64", {96}, std::string(768, 0)); }),
      "it must be I32");
  // Empty, as some packers write without act-order.
  EXPECT_TRUE(Load(Gptq(false, [&](SafetensorsWriter& w) { w.Add(name, "I32", {0}, ""); })).ok());
}

TEST_F(HfModelTest, Qz03ScalesAndZeros) {
  const std::string scales = std::string(kDown) + ".scales";
  const std::string zeros = std::string(kDown) + ".qzeros";
  ExpectRefused(Gptq(false, [&](SafetensorsWriter& w) { w.tensors().erase(scales); }),
                "has no 'scales' beside it");
  ExpectRefused(Gptq(false, [&](SafetensorsWriter& w) { w.tensors().erase(zeros); }),
                "has no 'qzeros' beside it");
  ExpectRefused(Gptq(false,
                     [&](SafetensorsWriter& w) {
                       w.Add(scales, "F16", {2, 64}, std::string(256, 'x'));
                     }),
                "has shape [2, 64]; the others need [3, 64]");
  ExpectRefused(Gptq(false,
                     [&](SafetensorsWriter& w) {
                       w.Add(scales, "I32", {3, 64}, std::string(768, 'x'));
                     }),
                "is no tensor of F16");
  // Zero points that are not packed.
  ExpectRefused(Gptq(false,
                     [&](SafetensorsWriter& w) {
                       w.Add(zeros, "I32", {3, 64}, std::string(768, 'x'));
                     }),
                "has shape [3, 64]; the others need [3, 8]");
  const auto scale = [&](uint16_t bits) {
    return Gptq(false, [&](SafetensorsWriter& w) {
      std::memcpy(w.tensors().at(scales).data.data() + 2 * 70, &bits, 2);
    });
  };
  for (uint16_t bits : {0x7c00, 0xfc00, 0x7e01}) {  // infinite, less than that, no number
    ExpectRefused(scale(bits), "its scale 70 is no finite number");
  }
  EXPECT_TRUE(Load(scale(0x0001)).ok());
  EXPECT_TRUE(Load(scale(0)).ok());
  // Symmetric: the zero points are known, and stored ones that say otherwise are no such model.
  HfModel symmetric = Gptq(false, [](SafetensorsWriter&) {});
  symmetric.Set("quantization_config",
                *Json::Parse(R"({"quant_method":"gptq","bits":4,"group_size":32,"sym":true})"));
  ExpectRefused(symmetric, kDown);
  for (char stored : {'\x77', '\x88'}) {
    symmetric.weights().tensors().at(zeros).data = std::string(96, stored);
    EXPECT_TRUE(Load(symmetric).ok()) << Load(symmetric);
  }
}

TEST_F(HfModelTest, ConfigurationAndTensorsThatDisagree) {
  const std::string weight = std::string(kDown) + ".weight";
  HfModel model({});
  const auto changed = [](const std::function<void(HfModel&)>& change) {
    HfModel out({});
    change(out);
    return out;
  };
  ExpectRefused(changed([&](HfModel& m) { m.weights().tensors().erase(weight); }),
                "'layers.1.down' is missing", dir_);
  ExpectRefused(changed([&](HfModel& m) {
                  m.Plain(weight, {64, 95});
                }),
                "is 64 x 95; the configuration needs 64 x 96");
  ExpectRefused(changed([&](HfModel& m) { m.Set("vocab_size", 65); }),
                "'model.embed_tokens.weight' is 64 x 64; the configuration needs 65 x 64");
  ExpectRefused(changed([&](HfModel& m) { m.Set("num_hidden_layers", 1); }), "model.layers.1.");
  ExpectRefused(changed([&](HfModel& m) { m.Set("num_hidden_layers", 3); }),
                "'layers.2.attn_norm' is missing", dir_);
  ExpectRefused(changed([&](HfModel& m) { m.Plain("model.layers.0.extra.weight", {3}); }),
                "tensor 'model.layers.0.extra.weight' is not part of architecture 'llama'");
  ExpectRefused(changed([&](HfModel& m) { m.Plain("odd", {3}); }), "tensor 'odd' is not part");
  ExpectRefused(changed([&](HfModel& m) { m.Plain(std::string(kDown) + ".scales", {3}); }),
                "down_proj.scales' is not part");
  ExpectRefused(changed([&](HfModel& m) { m.Plain("model.layers.01.mlp.up_proj.weight", {3}); }),
                "is not part");
  ExpectRefused(changed([&](HfModel& m) {
                  m.Plain(weight, {4, 16, 96});
                }),
                "has shape [4, 16, 96]; it must be a vector or a matrix");
  ExpectRefused(changed([&](HfModel& m) {
                  m.weights().Add("model.norm.weight", "I32", {64}, std::string(256, 0));
                }),
                "is I32, which no weight here can be");
  // A bias of zeros is none; another one is refused.
  const std::string bias = std::string(kDown) + ".bias";
  const auto biased = [&](const std::string& data) {
    return changed([&](HfModel& m) { m.weights().Add(bias, "F32", {64}, data); });
  };
  EXPECT_TRUE(Load(biased(std::string(256, '\0'))).ok());
  ExpectRefused(biased(std::string(256, '\x3c')), "down_proj.bias' is a bias, but");
  // A frequency table that follows from the configuration may be there.
  EXPECT_TRUE(Load(changed([&](HfModel& m) {
                m.Plain("model.layers.0.self_attn.rotary_emb.inv_freq", {8});
              })).ok());
  // A head beside tied embeddings is the embedding, or there is a lie somewhere.
  const auto tied = [&](const std::string& from) {
    return changed([&](HfModel& m) {
      m.Set("tie_word_embeddings", true);
      m.weights().Add("lm_head.weight", "F32", {64, 64}, m.weights().tensors().at(from).data);
    });
  };
  EXPECT_TRUE(Load(tied("model.embed_tokens.weight")).ok());
  ExpectRefused(tied("lm_head.weight"), "differs from 'model.embed_tokens.weight'");
}

TEST_F(HfModelTest, QuantizedWhereTheConfigurationSaysDenseAndTheOtherWay) {
  HfModel plain({});
  plain.Gptq(kDown, 4, 32, false);
  ExpectRefused(plain, "of a quantized module, but the configuration says it is dense");
  plain.Set("quantization_config",
            *Json::Parse(R"({"quant_method":"gptq","bits":4,"group_size":32,"sym":false,
                            "dynamic":{"-:.*down_proj":{}}})"));
  ExpectRefused(plain, "of a quantized module, but the configuration says it is dense");
  plain.Set("quantization_config", *Json::Parse(R"({"quant_method":"gptq","bits":8,
      "group_size":32,"sym":false})"));
  ExpectRefused(plain, "the others need");
  plain.Set("quantization_config", *Json::Parse(R"({"quant_method":"compressed-tensors",
      "config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"channel"}}}})"));
  ExpectRefused(plain, "");
  HfModel compressed({});
  for (const std::string& module : compressed.Linears()) {
    if (module != kDown) compressed.PackQuantized(module, 4, 32, true);
  }
  compressed.Set("quantization_config", CompressedConfig(4, 32, true));
  ExpectRefused(compressed, "is dense, but the configuration says it is quantized");
  compressed.PackQuantized(kDown, 4, 32, true);
  EXPECT_TRUE(Load(compressed).ok()) << Load(compressed);
  const int64_t shape[] = {64, 97};
  compressed.weights().Add(std::string(kDown) + ".weight_shape", "I64", {2},
                           std::string(reinterpret_cast<const char*>(shape), 16));
  ExpectRefused(compressed, "says [64, 97]");
  const int64_t narrow[] = {64, 88};  // a word fewer than there are
  compressed.weights().Add(std::string(kDown) + ".weight_shape", "I64", {2},
                           std::string(reinterpret_cast<const char*>(narrow), 16));
  ExpectRefused(compressed, "says [64, 88]");
}

TEST_F(HfModelTest, FilesBesideTheConfiguration) {
  HfModel model({});
  model.Gptq(kDown, 4, 32, false);
  model.Set("eos_token_id", 2);
  model.Write(dir_);
  HfModel::WriteText(dir_ + "/quantize_config.json",
                     R"({"bits":4,"group_size":32,"sym":false,"desc_act":false})");
  auto file = ModelFile::Open(dir_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->description().config.end_tokens, (std::vector<int32_t>{2}));
  EXPECT_THAT((*file)->description().format, HasSubstr("GPTQ 4-bit g32 asymmetric"));
  HfModel::WriteText(dir_ + "/generation_config.json", R"({"eos_token_id":[5,3]})");
  file = ModelFile::Open(dir_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->description().config.end_tokens, (std::vector<int32_t>{5, 3}));
  HfModel::WriteText(dir_ + "/generation_config.json", R"({"eos_token_id":64})");
  EXPECT_THAT(std::string(ModelFile::Open(dir_).status().message()), HasSubstr("end token"));
  HfModel::WriteText(dir_ + "/generation_config.json", R"({"eos_token_id":"x"})");
  EXPECT_THAT(std::string(ModelFile::Open(dir_).status().message()),
              HasSubstr("generation_config.json: key 'eos_token_id'"));
}

// The head in int8: counted by the plan's measure, packed so, and only where the file has 16 bits.
TEST_F(HfModelTest, Int8Head) {
  const auto open = [this](const HfShape& shape, HeadType head, bool gptq = true) {
    std::filesystem::remove_all(dir_);
    HfModel model(shape);
    if (gptq) {
      model.Gptq(kDown, 4, 32, false);
      model.Set("quantization_config", *Json::Parse(GptqConfig(4, 32, false, false)));
    }
    model.Write(dir_);
    auto file = ModelFile::Open(dir_, head);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  };
  ThreadPool pool({.workers = 1, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kFast);
  for (bool tied : {false, true}) {
    HfShape shape;
    shape.type = "BF16";
    shape.tied = tied;
    auto plain = LoadModel(open(shape, HeadType::kSource), {}, stream);
    auto file = open(shape, HeadType::kAuto);
    EXPECT_TRUE(file->description().int8_head);
    EXPECT_THAT(file->description().format,
                HasSubstr(tied ? "BF16 embedding, head made int8" : "BF16 head, head made int8"));
    const auto described = FindArchitecture("llama")->describe(file->description());
    ASSERT_TRUE(described.ok());
    const auto loaded = LoadModel(std::move(file), {}, stream);
    ASSERT_TRUE(plain.ok() && loaded.ok()) << loaded.status();
    EXPECT_EQ((*described)->WeightBytes(), loaded->transformer->WeightBytes());
    // 34 bytes for 32 values instead of 64.
    EXPECT_EQ(plain->transformer->WeightBytes() - loaded->transformer->WeightBytes(),
              64u * 64 / 32 * 30);
  }
  const auto left = [&](const char* type, int64_t hidden, bool gptq = true) {
    HfShape shape;
    shape.type = type;
    shape.hidden = hidden;
    const auto file = open(shape, HeadType::kAuto, gptq);
    return !file->description().int8_head;
  };
  EXPECT_FALSE(left("F16", 64));
  EXPECT_TRUE(left("F32", 64));
  EXPECT_TRUE(left("BF16", 48));
  EXPECT_TRUE(left("BF16", 64, false));
}

}  // namespace
}  // namespace millrace::model
