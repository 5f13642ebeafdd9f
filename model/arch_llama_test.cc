// The forward pass against a plain one in double, written the long way: one sequence, no cache,
// every position from the start. The oracle tests (tests/golden/model) decide what is right; this
// one says where it went wrong, over shapes and rope kinds that no golden has.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/architectures.h"
#include "model/gguf.h"
#include "model/gguf_model.h"
#include "tests/support/gguf_writer.h"

namespace millrace::model {
namespace {

using kernels::WeightType;
using testing::LlamaShape;
using Rows = std::vector<std::vector<double>>;  // [tokens][values]

// The weights of a description, dequantized.
struct Naive {
  const ModelDescription& d;

  std::vector<float> Row(const std::string& name, int64_t row) const {
    const kernels::RawMatrix& matrix = d.tensors.find(name)->second.matrix;
    std::vector<float> out(static_cast<size_t>(matrix.cols));
    kernels::DequantizeRawRow(matrix, row, out.data());
    return out;
  }
  Rows Multiply(const std::string& name, const Rows& x) const {
    const int64_t rows = d.tensors.find(name)->second.matrix.rows;
    Rows out(x.size(), std::vector<double>(static_cast<size_t>(rows)));
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> weights = Row(name, r);
      for (size_t t = 0; t < x.size(); ++t) {
        double sum = 0;
        for (size_t i = 0; i < weights.size(); ++i) sum += double(weights[i]) * x[t][i];
        out[t][static_cast<size_t>(r)] = sum;
      }
    }
    return out;
  }
  Rows Norm(const std::string& name, const Rows& x) const {
    const std::vector<float> weight = Row(name, 0);
    Rows out = x;
    for (auto& row : out) {
      double sum = 0;
      for (double v : row) sum += v * v;
      const double scale = 1 / std::sqrt(sum / double(row.size()) + d.config.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * double(weight[i]);
    }
    return out;
  }
  void Turn(Rows& x, int64_t heads) const {
    const RopeConfig& rope = d.config.rope;
    const int64_t half = rope.rotary_dim / 2;
    for (size_t t = 0; t < x.size(); ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        double* head = x[t].data() + h * d.config.head_dim;
        for (int64_t i = 0; i < half; ++i) {
          double freq = std::pow(rope.freq_base, -2.0 * double(i) / double(rope.rotary_dim));
          if (rope.scaling == RopeScaling::kLinear) freq /= rope.factor;
          if (!rope.freq_factors.empty()) freq /= double(rope.freq_factors[size_t(i)]);
          const double angle = double(t) * freq;
          double& a = head[rope.interleaved ? 2 * i : i];
          double& b = head[rope.interleaved ? 2 * i + 1 : i + half];
          const double old = a;
          a = old * std::cos(angle) - b * std::sin(angle);
          b = old * std::sin(angle) + b * std::cos(angle);
        }
      }
    }
  }
  Rows Attend(const Rows& q, const Rows& k, const Rows& v) const {
    const int64_t dim = d.config.head_dim;
    const int64_t group = d.config.heads / d.config.kv_heads;
    Rows out(q.size(), std::vector<double>(q[0].size()));
    for (size_t t = 0; t < q.size(); ++t) {
      for (int64_t h = 0; h < d.config.heads; ++h) {
        std::vector<double> weights(t + 1);
        double total = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (int64_t i = 0; i < dim; ++i) {
            dot += q[t][size_t(h * dim + i)] * k[s][size_t(h / group * dim + i)];
          }
          total += weights[s] = std::exp(dot / std::sqrt(double(dim)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (int64_t i = 0; i < dim; ++i) {
            out[t][size_t(h * dim + i)] += weights[s] / total * v[s][size_t(h / group * dim + i)];
          }
        }
      }
    }
    return out;
  }
  Rows Logits(const std::vector<int32_t>& ids) const {
    Rows hidden;
    for (int32_t id : ids) {
      const std::vector<float> row = Row("embedding", id);
      hidden.emplace_back(row.begin(), row.end());
    }
    const auto add = [&](const Rows& x) {
      for (size_t t = 0; t < hidden.size(); ++t) {
        for (size_t i = 0; i < hidden[t].size(); ++i) hidden[t][i] += x[t][i];
      }
    };
    for (int64_t layer = 0; layer < d.config.layers; ++layer) {
      const auto name = [&](const char* part) { return LayerTensor(layer, part); };
      const Rows n = Norm(name("attn_norm"), hidden);
      Rows q = Multiply(name("q"), n);
      Rows k = Multiply(name("k"), n);
      Turn(q, d.config.heads);
      Turn(k, d.config.kv_heads);
      add(Multiply(name("o"), Attend(q, k, Multiply(name("v"), n))));
      const Rows m = Norm(name("ffn_norm"), hidden);
      Rows gate = Multiply(name("gate"), m);
      const Rows up = Multiply(name("up"), m);
      for (size_t t = 0; t < gate.size(); ++t) {
        for (size_t i = 0; i < gate[t].size(); ++i) {
          gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
        }
      }
      add(Multiply(name("down"), gate));
    }
    return Multiply(d.config.tied_embeddings ? "embedding" : "head", Norm("final_norm", hidden));
  }
};

// Logits of every token of one sequence, fed in two chunks, from the transformer.
Rows Forward(const Transformer& transformer, const std::vector<int32_t>& ids, size_t first,
             kernels::Stream& stream) {
  const ModelConfig& config = transformer.config();
  kernels::KvLayout layout;
  layout.layers = static_cast<int32_t>(config.layers);
  layout.kv_heads = static_cast<int32_t>(config.kv_heads);
  layout.head_dim = static_cast<int32_t>(config.head_dim);
  const size_t blocks = ids.size() / size_t(layout.block_tokens) + 2;
  layout.blocks = static_cast<int64_t>(blocks) + 1;
  std::vector<float> arena(layout.BlockBytes() * (blocks + 1) / sizeof(float) + 16, NAN);
  std::byte* base = reinterpret_cast<std::byte*>(arena.data());
  base += (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64;
  std::vector<uint32_t> table;
  for (size_t i = 0; i < blocks; ++i) table.push_back(static_cast<uint32_t>(blocks - i));
  Workspace workspace;
  workspace.max_tokens = static_cast<int64_t>(ids.size());
  workspace.floats = transformer.WorkspaceFloats(workspace.max_tokens);
  std::vector<float> memory(workspace.floats + 16, NAN);
  uintptr_t at = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
  workspace.data = reinterpret_cast<float*>(at);
  Rows out;
  for (size_t begin = 0; begin < ids.size();) {
    const size_t count = begin == 0 ? first : ids.size() - begin;
    std::vector<int32_t> positions, rows;
    for (size_t i = 0; i < count; ++i) {
      positions.push_back(static_cast<int32_t>(begin + i));
      rows.push_back(static_cast<int32_t>(i));
    }
    const kernels::AttentionRow row{0, static_cast<int32_t>(count), static_cast<int32_t>(begin), 0,
                                    table.data()};
    const KvView kv = {&layout, base, {&row, 1}};
    const Batch batch{std::span(ids).subspan(begin, count), positions, {&kv, 1}, false};
    EXPECT_TRUE(transformer.Forward(batch, workspace, stream).ok());
    std::vector<float> logits(count * size_t(config.vocab_size));
    EXPECT_TRUE(transformer.Logits(rows, workspace, logits.data(), stream).ok());
    for (size_t i = 0; i < count; ++i) {
      const auto from = logits.begin() + int64_t(i) * config.vocab_size;
      out.emplace_back(from, from + config.vocab_size);
    }
    begin += count;
  }
  return out;
}

double RelativeError(const Rows& a, const Rows& b) {
  double difference = 0;
  double norm = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    for (size_t i = 0; i < a[t].size(); ++i) {
      difference += (a[t][i] - b[t][i]) * (a[t][i] - b[t][i]);
      norm += b[t][i] * b[t][i];
    }
  }
  return std::sqrt(difference / norm);
}

// fp32 of chains of a few hundred terms through two layers; double is exact beside it. Rounding
// errors of 2^-24 a step, growing as the square root of some 1e3 steps, times a small constant.
constexpr double kTolerance = 2e-5;

void Check(const LlamaShape& shape, const std::function<void(ModelDescription&)>& change) {
  ThreadPool pool({.workers = 2, .pin = false});
  kernels::Stream stream(pool, kernels::ComputeMode::kExact);
  const std::string file = testing::RandomLlama(shape, 5).Build();
  const auto contents = ParseGguf(std::as_bytes(std::span(file)), "random.gguf");
  ASSERT_TRUE(contents.ok()) << contents.status();
  auto description = DescribeGguf(*contents);
  ASSERT_TRUE(description.ok()) << description.status();
  change(*description);
  size_t last_done = 0;
  PackArgs args;
  args.stream = &stream;
  args.progress = [&](size_t done, size_t total) {
    EXPECT_GT(done, last_done);
    EXPECT_LE(done, total);
    last_done = done;
  };
  const auto transformer = kLlama.make(*description, args);
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  EXPECT_GT(last_done, 0u);
  std::mt19937_64 random(9);
  std::vector<int32_t> ids;
  for (int i = 0; i < 45; ++i) {
    ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(shape.vocab)));
  }
  const Rows expected = Naive{*description}.Logits(ids);
  EXPECT_LE(RelativeError(Forward(**transformer, ids, 45, stream), expected), kTolerance);
  EXPECT_LE(RelativeError(Forward(**transformer, ids, 33, stream), expected), kTolerance);
}

void Nothing(ModelDescription&) {}

TEST(Llama, EveryWeightType) {
  for (WeightType type :
       {WeightType::kF32, WeightType::kF16, WeightType::kBF16, WeightType::kQ8_0, WeightType::kQ4_0,
        WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kIQ4_NL,
        WeightType::kQ3_K, WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K,
        WeightType::kIQ4_XS}) {
    LlamaShape shape;
    shape.type = type;
    shape.tied = type != WeightType::kQ4_0;
    if (kernels::BlockValues(type) == 256) {
      shape.hidden = shape.feed_forward = 256;
      shape.heads = 8;
      shape.kv_heads = 2;
      shape.layers = 1;
    }
    SCOPED_TRACE(kernels::WeightTypeName(type));
    Check(shape, &Nothing);
  }
}

TEST(Llama, AwkwardShapes) {
  LlamaShape odd;  // nothing is a multiple of 16
  odd.vocab = 53, odd.hidden = 42, odd.heads = 7, odd.kv_heads = 7, odd.head_dim = 6;
  odd.feed_forward = 17;
  Check(odd, &Nothing);
  LlamaShape wide;  // heads wider together than the hidden state
  wide.hidden = 32, wide.heads = 9, wide.kv_heads = 3, wide.head_dim = 16, wide.feed_forward = 33;
  wide.tied = false, wide.layers = 1;
  Check(wide, &Nothing);
  LlamaShape narrow;  // and much narrower: the workspace is the hidden state's
  narrow.hidden = 160, narrow.heads = 1, narrow.kv_heads = 1, narrow.head_dim = 8;
  narrow.feed_forward = 8, narrow.layers = 1;
  Check(narrow, &Nothing);
}

TEST(Llama, RopeKinds) {
  Check({}, [](ModelDescription& d) { d.config.rope.interleaved = false; });
  Check({}, [](ModelDescription& d) { d.config.rope.rotary_dim = 20; });
  Check({}, [](ModelDescription& d) {
    d.config.rope.scaling = RopeScaling::kLinear;
    d.config.rope.factor = 4;
  });
  Check({}, [](ModelDescription& d) {
    d.config.rope.freq_factors.assign(16, 1.0f);
    d.config.rope.freq_factors[3] = 8.0f;
  });
}

TEST(Config, Llama3FrequenciesMeetTheirDefinition) {
  RopeConfig rope;
  rope.freq_base = 500000, rope.rotary_dim = 128, rope.scaling = RopeScaling::kLlama3;
  rope.factor = 8, rope.low_freq_factor = 1, rope.high_freq_factor = 4;
  rope.original_context = 8192;
  const std::vector<float> scaled = RopeInverseFrequencies(rope);
  rope.scaling = RopeScaling::kNone;
  const std::vector<float> plain = RopeInverseFrequencies(rope);
  ASSERT_EQ(scaled.size(), 64u);
  EXPECT_EQ(scaled[0], 1.0f);
  EXPECT_EQ(scaled[63], plain[63] / 8);  // a wavelength of 2.6 million tokens
  int kept = 0, divided = 0, between = 0;
  for (size_t i = 0; i < 64; ++i) {
    const float ratio = plain[i] / scaled[i];
    (ratio == 1.0f ? kept : ratio == 8.0f ? divided : between) += 1;
    EXPECT_GE(ratio, 0.999f);
    EXPECT_LE(ratio, 8.001f);
  }
  // Wavelengths up to 2,048 are kept: i < 64 log(2048 / 2 pi) / log(500000) = 28.2. From 8,192 on
  // they are divided: i > 34.98.
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(divided, 29);
  EXPECT_EQ(between, 6);
}

}  // namespace
}  // namespace millrace::model
