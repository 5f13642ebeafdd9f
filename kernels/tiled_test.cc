// Products on tiles (AMX), whose instructions few machines have: the emulation is held to the
// documents, the kernels on it to the slow twin and, to the last bits, to their own formula, and
// the instructions, where there are some, to the emulation.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/emulated_tiles.h"
#include "kernels/matrix_unit.h"
#include "kernels/test_gemm.h"

namespace millrace::kernels {
namespace {

using testing::Format;
using testing::kAllFormats;
using testing::Random;
using testing::RandomMatrix;

// ---- The tile operations.

TEST(TileConfig, BytesAreThoseOfTheDocument) {
  const TileConfig config;
  uint8_t bytes[64];
  std::memcpy(bytes, &config, sizeof bytes);
  for (int i = 0; i < 64; ++i) {
    uint8_t want = 0;
    if (i == 0) want = 1;                            // palette
    if (i >= 16 && i < 32 && i % 2 == 0) want = 64;  // tile0.colsb .. tile7.colsb, 16 bits each
    if (i >= 48 && i < 56) want = 16;                // tile0.rows .. tile7.rows
    EXPECT_EQ(bytes[i], want) << "byte " << i;
  }
}

template <class T>
struct Tile {
  T at[16][64 / sizeof(T)] = {};
};

// c += a b of one tile each, through all eight names of tiles that the kernel uses.
template <class T, class C, bool kBf16>
Tile<C> Product(const Tile<T>& a, const Tile<T>& b, Tile<C> c, TileConfig config = {}) {
  EmulatedTiles tiles;
  tiles.Configure(config);
  tiles.Load<3>(&c, 64);
  tiles.Load<5>(&a, 64);
  tiles.Load<7>(&b, 64);
  if constexpr (kBf16) {
    tiles.DotBf16<3, 5, 7>();
  } else {
    tiles.DotBytes<3, 5, 7>();
  }
  tiles.Store<3>(&c, 64);
  return c;
}

TEST(EmulatedTiles, BytesAreSummedModulo32Bits) {
  Random random(3);
  Tile<int8_t> a, b;
  Tile<int32_t> c;
  for (int i = 0; i < 1024; ++i) {
    a.at[i / 64][i % 64] = static_cast<int8_t>(random.Next());
    b.at[i / 64][i % 64] = static_cast<int8_t>(random.Next());
  }
  for (int i = 0; i < 64; ++i) a.at[2][i] = b.at[i / 4][12 + i % 4] = -128;
  for (int i = 0; i < 256; ++i) c.at[i / 16][i % 16] = static_cast<int32_t>(random.Next());
  c.at[2][3] = INT32_MAX;
  const Tile<int32_t> got = Product<int8_t, int32_t, false>(a, b, c);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      int64_t sum = c.at[m][n];
      for (int k = 0; k < 64; ++k) sum += a.at[m][k] * b.at[k / 4][4 * n + k % 4];
      EXPECT_EQ(got.at[m][n], static_cast<int32_t>(sum)) << m << " " << n;
    }
  }
  EXPECT_LT(got.at[2][3], 0);  // it wrapped
}

uint16_t Bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

TEST(EmulatedTiles, Bf16PairsAreSummedApartAndDenormalsAreZero) {
  Tile<uint16_t> a, b;
  Tile<float> c;
  const auto row = [&](int m, int k, float x) { a.at[m][k] = Bf16(x); };
  const auto column = [&](int n, int k, float x) { b.at[k / 2][2 * n + k % 2] = Bf16(x); };
  for (int k = 0; k < 32; ++k) column(0, k, 1.0f), column(1, k, 0x1p-100f), column(2, k, NAN);
  // Even: 2^24 + 1 = 2^24, to even. Odd: 1 + 1. Their sum keeps the odd ones; one chain would not.
  row(0, 0, 0x1p24f), row(0, 2, 1.0f), row(0, 1, 1.0f), row(0, 3, 1.0f);
  row(1, 0, 0x1p-40f);   // a denormal product in column 1
  row(2, 0, 0x1p-130f);  // a denormal operand
  c.at[3][0] = 0x1p-130f, c.at[4][0] = -3.0f;
  const Tile<float> got = Product<uint16_t, float, true>(a, b, c);
  EXPECT_EQ(got.at[0][0], 0x1p24f + 2.0f);
  EXPECT_EQ(got.at[1][0], 0x1p-40f);
  EXPECT_EQ(got.at[1][1], 0.0f);
  EXPECT_EQ(got.at[2][0], 0.0f);
  EXPECT_EQ(got.at[3][0], 0.0f);
  EXPECT_EQ(got.at[4][0], -3.0f);
  EXPECT_TRUE(std::isnan(got.at[0][2]));
}

TEST(EmulatedTiles, RowsAndBytesBeyondTheShapeAreZero) {
  TileConfig config;
  config.rows[5] = config.rows[3] = 7;           // 7 tokens
  config.row_bytes[5] = 32, config.rows[7] = 8;  // 32 deep
  Tile<int8_t> a, b;
  std::memset(a.at, 1, sizeof a.at);
  std::memset(b.at, 1, sizeof b.at);
  Tile<int32_t> c;
  c.at[7][0] = 77;
  const Tile<int32_t> got = Product<int8_t, int32_t, false>(a, b, c, config);
  EXPECT_EQ(got.at[6][15], 32);
  EXPECT_EQ(got.at[7][0], 77);  // not stored
}

TEST(EmulatedTilesDeathTest, WhatFaultsOnTheCpuStopsTheProcess) {
  const auto configure = [](void (*change)(TileConfig&)) {
    TileConfig config;
    change(config);
    EmulatedTiles().Configure(config);
  };
  configure([](TileConfig&) {});
  EXPECT_DEATH(configure([](TileConfig& c) { c.palette = 2; }), "");
  EXPECT_DEATH(configure([](TileConfig& c) { c.reserved[13] = 1; }), "");
  EXPECT_DEATH(configure([](TileConfig& c) { c.row_bytes[0] = 65; }), "");
  EXPECT_DEATH(configure([](TileConfig& c) { c.rows[7] = 17; }), "");
  EXPECT_DEATH(configure([](TileConfig& c) { c.rows[1] = 0; }), "");
  EXPECT_DEATH(configure([](TileConfig& c) { c.rows[8] = 16, c.row_bytes[8] = 64; }), "");
  EXPECT_DEATH(EmulatedTiles().Zero<0>(), "");
  const auto product = [](void (*change)(TileConfig&)) {
    TileConfig config;
    change(config);
    Product<int8_t, int32_t, false>({}, {}, {}, config);
  };
  product([](TileConfig&) {});
  EXPECT_DEATH(product([](TileConfig& c) { c.rows[3] = 8; }), "");        // tokens of c and a
  EXPECT_DEATH(product([](TileConfig& c) { c.row_bytes[3] = 32; }), "");  // rows of c and b
  EXPECT_DEATH(product([](TileConfig& c) { c.row_bytes[5] = 32; }), "");  // depth of a and b
  EmulatedTiles released;
  released.Configure({});
  released.Release();
  EXPECT_DEATH(released.Zero<0>(), "");
}

// ---- Whether the machine has them.

MatrixUnitFacts GoodFacts() {
  return {1u << 22 | 1u << 24 | 1u << 25, 8u << 16 | 64, 16, uint64_t{3} << 17 | 0xe7, true};
}

TEST(MatrixUnit, EveryFactIsNeeded) {
  EXPECT_EQ(WhyNoMatrixUnit(GoodFacts()), nullptr);
  const auto reason = [](void (*change)(MatrixUnitFacts&)) {
    MatrixUnitFacts facts = GoodFacts();
    change(facts);
    const char* why = WhyNoMatrixUnit(facts);
    return std::string(why == nullptr ? "" : why);
  };
  EXPECT_EQ(reason([](auto& f) { f.avx512_vnni = false; }), "the CPU has no AVX-512 VNNI");
  EXPECT_EQ(reason([](auto& f) { f.features &= ~(1u << 24); }), "the CPU has no AMX");
  EXPECT_NE(reason([](auto& f) { f.features &= ~(1u << 25); }), "");
  EXPECT_NE(reason([](auto& f) { f.features &= ~(1u << 22); }), "");
  EXPECT_NE(reason([](auto& f) { f.saved &= ~(uint64_t{1} << 17); }), "");
  EXPECT_NE(reason([](auto& f) { f.saved &= ~(uint64_t{1} << 18); }), "");
  EXPECT_NE(reason([](auto& f) { f.palette_rows = 8u << 16 | 32; }), "");
  EXPECT_NE(reason([](auto& f) { f.palette_rows = 4u << 16 | 64; }), "");
  EXPECT_NE(reason([](auto& f) { f.palette_max = 8; }), "");
}

TEST(MatrixUnit, IsRefusedByNameWithTheReason) {
  if (RunsIsaTier(IsaTier::kAmx)) {
    EXPECT_EQ(*FindIsaTier("amx"), IsaTier::kAmx);
    EXPECT_EQ(*FindIsaTier("auto"), IsaTier::kAmx);
    return;
  }
  std::fprintf(stderr, "NOT RUN: tier amx, %s\n", WhyNoMatrixUnit());
  const std::string message(FindIsaTier("amx").status().message());
  EXPECT_NE(message.find("no CPU tier amx (" + std::string(WhyNoMatrixUnit()) + ")"),
            std::string::npos)
      << message;
  EXPECT_EQ(message.find(" amx-emulated"), std::string::npos) << message;
}

template <bool kBytes>
void WrongGemm(const GemmRun& run) {
  amx_plain::kTiled.gemm(run);
  if (run.tiled->bytes == kBytes) run.out[run.rows * 17 + 20] += 0.1f;
}

TEST(MatrixUnit, TheSelfTestSeesOneWrongElement) {
  EXPECT_TRUE(AgreesWithEmulation(amx_plain::kTiled));
  EXPECT_FALSE(AgreesWithEmulation({WrongGemm<false>, amx_plain::kTiled.make_row}));
  EXPECT_FALSE(AgreesWithEmulation({WrongGemm<true>, amx_plain::kTiled.make_row}));
  if (!RunsIsaTier(IsaTier::kAvx512Vnni)) {
    std::fprintf(stderr, "NOT RUN: emulation with AVX-512 VNNI, this CPU lacks it\n");
    return;
  }
  EXPECT_TRUE(AgreesWithEmulation(amx_emulated::kTiled));
}

// ---- Which products run on tiles, and how.

TEST(Tiled, OnlyFastProductsOfManyTokens) {
  ThreadPool pool(testing::Workers(1));
  Stream packer(pool, ComputeMode::kFast);
  for (const Format& format : kAllFormats) {
    const PackedMatrix w = testing::Pack(MakeMatrix(format, 16, 256, 1), packer);
    const auto runs = [&](ComputeMode mode, IsaTier tier, int64_t tokens) {
      return ChooseTiled(w.payload(), tokens, {mode, tier, 1}).kernels != nullptr;
    };
    const bool ready = format.type <= WeightType::kBF16 || format.type == WeightType::kInt8Channel;
    const bool any = format.type != WeightType::kF32;
    const int64_t tokens = ready ? kTiledTokens : kTiledTokensCoded;
    EXPECT_EQ(runs(ComputeMode::kFast, IsaTier::kAmx, tokens), any) << format.name;
    EXPECT_EQ(runs(ComputeMode::kFast, IsaTier::kAmxEmulated, tokens), any) << format.name;
    EXPECT_FALSE(runs(ComputeMode::kFast, IsaTier::kAmx, tokens - 1)) << format.name;
    EXPECT_FALSE(runs(ComputeMode::kExact, IsaTier::kAmx, 512)) << format.name;
    for (IsaTier tier : kAllTiers) EXPECT_FALSE(runs(ComputeMode::kFast, tier, 512));
  }
  EXPECT_EQ(BatchInvariantTier(IsaTier::kAmx), IsaTier::kAvx512Vnni);
  EXPECT_EQ(BatchInvariantTier(IsaTier::kAmxEmulated), DetectIsaTier());
  for (IsaTier tier : kAllTiers) EXPECT_EQ(BatchInvariantTier(tier), tier);
}

// ---- The products: their own formula in double, with the very same roundings of the operands.

// To nearest; between two as the kernel does: by a splitting of activations, away from zero of
// weights.
float RoundedToBf16(float x, bool weight) {
  const float scaled = x * 65537.0f, split = scaled - (scaled - x);
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x8000) & 0xffff0000;
  float rounded;
  std::memcpy(&rounded, &bits, 4);
  if (!weight) rounded = split;
  const float spacing = x == 0 ? 1.0f : std::ldexp(1.0f, std::ilogb(x) - 7);
  EXPECT_EQ(rounded, std::nearbyint(rounded / spacing) * spacing);
  EXPECT_LE(std::abs(rounded - x), spacing / 2);
  return rounded;
}

class TiledTest : public ::testing::TestWithParam<Format> {};

TEST_P(TiledTest, IsItsFormula) {
  if (GetParam().type == WeightType::kF32) return;  // not on tiles
  const bool bytes = GetParam().type == WeightType::kInt8Channel;
  ThreadPool pool(testing::Workers(2));
  for (IsaTier tier : testing::TiledTiers()) {
    Stream stream(pool, ComputeMode::kFast, tier);
    for (int64_t width : {96, 576, 1248}) {
      if (GetParam().type <= WeightType::kBF16) width += 5;  // part of a tile
      // Some strips one behind the other in one call, or one.
      const int64_t rows = width < 600 ? 1043 : 49, step = width < 600 ? 37 : 1, tokens = 35;
      const int64_t cols = testing::RoundCols(GetParam(), width);
      const RandomMatrix m = MakeMatrix(GetParam(), rows, cols, 21);
      const PackedMatrix w = testing::Pack(m, stream);
      EXPECT_EQ(ChooseTiled(w.payload(), tokens, stream.shape()).bytes, bytes);
      Random random(5);
      std::vector<float> x = random.Floats(tokens * cols, 2.0f);
      constexpr size_t kMore = 1 << 20;  // than Gemm takes: of no numbers
      std::memset(stream.Scratch(kMore), 0xff, kMore);
      const std::vector<float> got = testing::RunGemm({&w}, x, tokens, stream);
      for (int64_t t = 0; t < tokens; ++t) {
        float largest = 0;
        for (int64_t k = 0; k < cols; ++k) largest = std::max(largest, std::abs(x[t * cols + k]));
        for (int64_t k = 0; k < cols; ++k) {
          float& value = x[static_cast<size_t>(t * cols + k)];
          value = bytes ? std::nearbyint(value * (127.0f / largest)) * (largest / 127.0f)
                        : RoundedToBf16(value, false);
        }
      }
      std::vector<float> weights(static_cast<size_t>(cols));
      for (int64_t n = 0; n < rows; n += step) {
        DequantizeRawRow(m.raw, n, weights.data());
        // A weight is off by 2^-15 of its scale at most before it is rounded, so that one as near
        // to the middle of two bf16 may have become the other one.
        float most = 0;
        for (float v : weights) most = std::max(most, std::abs(v));
        std::vector<double> flip(weights.size());
        for (size_t k = 0; !bytes && k < weights.size(); ++k) {
          const float rounded = RoundedToBf16(weights[k], true);
          const float spacing =
              std::ldexp(1.0f, std::ilogb(weights[k] == 0 ? most : weights[k]) - 7);
          const float from_middle = spacing / 2 - std::abs(weights[k] - rounded);
          if (from_middle <= 0x1p-15f * most) flip[k] = static_cast<double>(spacing);
          weights[k] = rounded;
        }
        for (int64_t t = 0; t < tokens; ++t) {
          double sum = 0, size = 0, flips = 0;
          for (int64_t k = 0; k < cols; ++k) {
            const double product = static_cast<double>(x[static_cast<size_t>(t * cols + k)]) *
                                   static_cast<double>(weights[static_cast<size_t>(k)]);
            sum += product, size += std::abs(product);
            flips += flip[static_cast<size_t>(k)] *
                     std::abs(static_cast<double>(x[static_cast<size_t>(t * cols + k)]));
          }
          // fp32 sums; of bytes, whose sums are exact, only the roundings of scales and results.
          const double within =
              (bytes ? 8.0 : static_cast<double>(cols)) * testing::kEps * size + flips;
          ASSERT_NEAR(got[static_cast<size_t>(t * rows + n)], sum, within)
              << cols << " columns, token " << t << " row " << n;
        }
      }
    }
  }
}

// What rounding both operands to bf16 costs, beside activations in 8 bits for 32 values: the table
// of docs/numerics.md.
TEST_P(TiledTest, IsNearerToExactThanBlocksOf32) {
  ThreadPool pool(testing::Workers(2));
  const int64_t cols = 2048, rows = 64, tokens = 64;
  Random random(7);
  std::vector<float> x(static_cast<size_t>(tokens * cols));
  for (float& v : x) {  // with a tail, as activations have
    const float u = random.Uniform(-1.0f, 1.0f);
    v = u * (1.0f + 3.0f * std::abs(random.Uniform(-1.0f, 1.0f)));
  }
  Stream packer(pool, ComputeMode::kFast);
  const PackedMatrix w = testing::Pack(MakeMatrix(GetParam(), rows, cols, 3), packer);
  const auto run = [&](ComputeMode mode, IsaTier tier) {
    Stream stream(pool, mode, tier);
    return testing::RunGemm({&w}, x, tokens, stream);
  };
  const std::vector<float> exact = run(ComputeMode::kExact, DetectIsaTier());
  const auto error = [&](const std::vector<float>& got) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double d = static_cast<double>(got[i]) - static_cast<double>(exact[i]);
      difference += d * d, norm += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
    }
    return std::sqrt(difference / norm);
  };
  const double blocks = error(run(ComputeMode::kFast, DetectIsaTier()));
  const double tiles = error(run(ComputeMode::kFast, IsaTier::kAmxEmulated));
  std::printf("| %s | %.2f %% | %.2f %% |\n", GetParam().name, 100 * blocks, 100 * tiles);
  if (GetParam().type == WeightType::kInt8Channel) {
    EXPECT_NEAR(tiles, blocks, 1e-3 * blocks);  // the same integers
  } else {
    EXPECT_LT(tiles, 0x1p-8);  // an operand moves by that at most
    if (!IsPlain(w.payload().kind)) {
      EXPECT_LT(tiles, 0.75 * blocks);
    }
  }
}

// The bytes of `amx` are those of its emulation, and a token's are the same in any company: in
// chunks of tokens, in passes over long rows, added to what is there, with a strip of its own at
// the end.
TEST_P(TiledTest, HasTheSameBytesInAnyCompany) {
  if (GetParam().type == WeightType::kF32) return;  // not on tiles
  // One worker's chunks have 160 tokens, whose weights are made 512 columns at a time; two workers'
  // have 128, and 256.
  ThreadPool one(testing::Workers(1)), two(testing::Workers(2));
  for (int64_t width : {544, 4864}) {
    const int64_t cols = testing::RoundCols(GetParam(), width), rows = 83, tokens = 300;
    Random random(11);
    const std::vector<float> x = random.Floats(tokens * cols), start = random.Floats(tokens * rows);
    std::vector<float> first;  // of the first tier
    for (IsaTier tier : testing::TiledTiers()) {
      Stream stream(one, ComputeMode::kFast, tier), shared(two, ComputeMode::kFast, tier);
      const PackedMatrix w = testing::Pack(MakeMatrix(GetParam(), rows, cols, 2), stream);
      const std::vector<float> all = testing::RunGemm({&w}, x, tokens, stream, start);
      if (first.empty()) first = all;
      EXPECT_EQ(0, std::memcmp(all.data(), first.data(), all.size() * sizeof(float)));
      EXPECT_EQ(all, testing::RunGemm({&w}, x, tokens, shared, start));
      for (int64_t few : {kTiledTokensCoded, int64_t{47}}) {
        const std::vector<float> got = testing::RunGemm({&w}, x, few, shared, start);
        EXPECT_EQ(0, std::memcmp(all.data(), got.data(), static_cast<size_t>(few * rows) * 4))
            << few;
      }
    }
  }
}

// A scale that is no number makes products that are none, whatever its bits: carried over while it
// is rounded, this one would become zero.
TEST(Tiled, ScalesThatAreNoNumberShow) {
  ThreadPool pool(testing::Workers(1));
  for (WeightType type : {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ8_0,
                          WeightType::kQ6_K, WeightType::kF16}) {
    RandomMatrix m = testing::MakeMatrix(type, 17, 256, 1);
    const uint16_t bits = 0x7fff;
    const size_t offset = type == WeightType::kF16 ? 0 : testing::ScaleOffset(type);
    std::memcpy(m.bytes.data() + offset, &bits, 2);  // of row 0
    Random random(2);
    const std::vector<float> x = random.Floats(kTiledTokensCoded * 256);
    for (IsaTier tier : testing::TiledTiers()) {
      Stream stream(pool, ComputeMode::kFast, tier);
      const PackedMatrix w = testing::Pack(m, stream);
      const std::vector<float> got = testing::RunGemm({&w}, x, kTiledTokensCoded, stream);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(std::isfinite(got[i]), i % 17 != 0) << WeightTypeName(type) << " " << i;
      }
    }
  }
}

// Nothing of a token is in another's result.
TEST(Tiled, NotANumberStaysInItsRow) {
  ThreadPool pool(testing::Workers(2));
  Stream stream(pool, ComputeMode::kFast, IsaTier::kAmxEmulated);
  for (const Format& format :
       {Format{"Q8_0", WeightType::kQ8_0}, Format{"BF16", WeightType::kBF16},
        Format{"Int8Channel", WeightType::kInt8Channel, -1, false, WeightType::kF32}}) {
    const PackedMatrix w = testing::Pack(MakeMatrix(format, 20, 96, 1), stream);
    Random random(2);
    std::vector<float> x = random.Floats(kTiledTokensCoded * 96);
    const std::vector<float> clean = testing::RunGemm({&w}, x, kTiledTokensCoded, stream);
    x[3 * 96 + 5] = NAN;
    x[9 * 96 + 95] = INFINITY;
    const std::vector<float> got = testing::RunGemm({&w}, x, kTiledTokensCoded, stream);
    for (size_t i = 0; i < got.size(); ++i) {
      if (i / 20 == 3 || i / 20 == 9) {
        EXPECT_FALSE(std::isfinite(got[i])) << format.name << " " << i;
      } else {
        EXPECT_EQ(got[i], clean[i]) << format.name << " " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, TiledTest, ::testing::ValuesIn(kAllFormats),
                         [](const auto& format) { return std::string(format.param.name); });

}  // namespace
}  // namespace millrace::kernels
