// Every weight format in every tier that this machine runs, both modes, over the shapes of real
// models: a long batch is compared with the slow twin once, and every shorter batch, in every tier,
// must give the bytes of the long one. On tiles (emulated) the bytes are others, and the same for
// any batch that is long enough to run there.
//   gemm_shapes_test          narrow matrices, the scalar tier for few tokens (seconds)
//   gemm_shapes_test --full   all columns and tokens in all tiers (a minute or two)

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/test_gemm.h"

namespace millrace::kernels {
namespace {

using testing::Format;
using testing::kAllFormats;
using testing::RandomMatrix;

bool full = false;

constexpr int64_t kTokens[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 50, 64, 255};
constexpr int64_t kCols[] = {576, 896, 1536, 2048, 4864};
// Two workers take 96 tokens in halves, each enough for a panel of any payload.
constexpr int64_t kShortCols = 896, kShortTokens = 96, kScalarTokens = 5;

struct Batch {
  int64_t rows, cols, tokens;
  ComputeMode mode;
  std::vector<float> x;
};

// The bytes of the first tokens of `batch` in every tier and in batches of every size.
void CompareCompany(const PackedMatrix& w, const Batch& batch, const std::vector<float>& all) {
  ThreadPool pool(testing::Workers(2));
  for (IsaTier tier : testing::RunnableTiers()) {
    Stream stream(pool, batch.mode, tier);
    for (int64_t tokens : kTokens) {
      if (tokens > batch.tokens) break;
      if (!full && tier == IsaTier::kScalar && tokens > kScalarTokens) break;
      const std::vector<float> got = testing::RunGemm({&w}, batch.x, tokens, stream);
      ASSERT_EQ(0, std::memcmp(got.data(), all.data(), got.size() * sizeof(float)))
          << IsaTierName(tier) << " mode " << static_cast<int>(batch.mode) << " [" << batch.rows
          << ", " << batch.cols << "] tokens " << tokens;
    }
  }
}

struct Known {
  const Batch& batch;
  const ref::Values& want;
  const std::vector<float>& fast;
};
// A tier with tiles: as near as its formats allow, the same bytes in any batch that runs on tiles
// and on any number of workers, and those of the other tiers (`fast`) in shorter ones.
void CheckTiles(const PackedMatrix& w, const RandomMatrix& m, const Known& known, IsaTier tier) {
  const Batch& batch = known.batch;
  const ref::Values& want = known.want;
  const std::vector<float>& fast = known.fast;
  ThreadPool pool(testing::Workers(2)), single(testing::Workers(1));
  Stream stream(pool, ComputeMode::kFast, tier);
  Stream alone(single, ComputeMode::kFast, tier);
  const std::vector<float> all = testing::RunGemm({&w}, batch.x, batch.tokens, stream);
  const TiledChoice choice = ChooseTiled(w.payload(), batch.tokens, stream.shape());
  if (choice.kernels != nullptr) {
    std::vector<double> tolerance;
    if (choice.bytes) tolerance = testing::FastTolerance(m.raw, w, batch.x, batch.tokens);
    for (size_t i = 0; i < all.size(); ++i) {
      const double within =
          choice.bytes ? tolerance[i] : testing::TiledTolerance(want, i, batch.cols);
      ASSERT_NEAR(all[i], want.value[i], within)
          << "tiles [" << batch.rows << ", " << batch.cols << "] element " << i;
    }
    EXPECT_NE(0, std::memcmp(all.data(), fast.data(), all.size() * sizeof(float)));
  }
  for (int64_t tokens : kTokens) {
    if (tokens > batch.tokens) break;
    const bool tiled = ChooseTiled(w.payload(), tokens, stream.shape()).kernels != nullptr;
    const std::vector<float>& same = tiled ? all : fast;
    for (Stream* s : {&stream, &alone}) {
      const std::vector<float> got = testing::RunGemm({&w}, batch.x, tokens, *s);
      ASSERT_EQ(0, std::memcmp(got.data(), same.data(), got.size() * sizeof(float)))
          << "tiles [" << batch.rows << ", " << batch.cols << "] tokens " << tokens;
    }
  }
}

class GemmShapesTest : public ::testing::TestWithParam<Format> {};

TEST_P(GemmShapesTest, AgreesWithTheSlowTwinAndInAnyCompany) {
  ThreadPool pool(testing::Workers(2));
  for (int64_t shape : kCols) {
    if (!full && shape > kShortCols) break;
    const int64_t cols = testing::RoundCols(GetParam(), shape), rows = full ? 49 : 33;
    const int64_t tokens = full ? 255 : kShortTokens;
    const RandomMatrix m = MakeMatrix(GetParam(), rows, cols, 11);
    Stream packer(pool, ComputeMode::kFast);
    const PackedMatrix w = testing::Pack(m, packer);
    testing::Random random(static_cast<uint64_t>(cols));
    Batch batch = {rows, cols, tokens, ComputeMode::kExact, random.Floats(tokens * cols, 2.0f)};
    const ref::Values want = ref::Gemm(m.raw, batch.x, tokens);
    for (ComputeMode mode : {ComputeMode::kExact, ComputeMode::kFast}) {
      batch.mode = mode;
      Stream stream(pool, mode);
      const std::vector<float> got = testing::RunGemm({&w}, batch.x, tokens, stream);
      std::vector<double> tolerance;
      if (mode == ComputeMode::kFast && !IsPlain(w.payload().kind)) {
        tolerance = testing::FastTolerance(m.raw, w, batch.x, tokens);
      }
      for (size_t i = 0; i < got.size(); ++i) {
        const double within =
            tolerance.empty() ? testing::ExactTolerance(want, i, cols) : tolerance[i];
        ASSERT_NEAR(got[i], want.value[i], within) << "mode " << static_cast<int>(mode) << " ["
                                                   << rows << ", " << cols << "] element " << i;
      }
      CompareCompany(w, batch, got);
      if (HasFatalFailure()) return;
      if (mode == ComputeMode::kExact) continue;
      for (IsaTier tier : testing::TiledTiers()) CheckTiles(w, m, {batch, want, got}, tier);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GemmShapesTest, ::testing::ValuesIn(kAllFormats),
                         [](const auto& format) { return std::string(format.param.name); });

}  // namespace
}  // namespace millrace::kernels

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  millrace::kernels::full = argc > 1 && std::strcmp(argv[1], "--full") == 0;
  return RUN_ALL_TESTS();
}
