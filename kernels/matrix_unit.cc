#include "kernels/matrix_unit.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "kernels/stream.h"

namespace millrace::kernels {
namespace {

constexpr uint32_t kBf16Bit = 1u << 22, kTileBit = 1u << 24, kInt8Bit = 1u << 25;
constexpr uint64_t kTileState = uint64_t{3} << 17;  // XTILECFG and XTILEDATA

MatrixUnitFacts ReadFacts() {
  MatrixUnitFacts facts;
  uint32_t a, b, c, d;
  facts.avx512_vnni = RunsIsaTier(IsaTier::kAvx512Vnni);  // so there is XGETBV
  if (!facts.avx512_vnni) return facts;
  facts.saved = ReadXcr0();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) facts.features = d;
  if (__get_cpuid_count(0x1d, 1, &a, &b, &c, &d)) facts.palette_rows = b, facts.palette_max = c;
  return facts;
}

// Linux gives a process no room for tiles before it asks (5.16; Documentation/arch/x86/xstate.rst).
bool AskForTiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

const char* FindReason() {
  if (const char* reason = WhyNoMatrixUnit(ReadFacts()); reason != nullptr) return reason;
  if (!AskForTiles()) return "the operating system refuses this process its registers";
  if (AgreesWithEmulation(amx::kTiled)) return nullptr;
  Log(LogLevel::kWarning, "AMX gives wrong products on this machine: not used");
  return "it failed its self-test";
}

// A product of some tokens and one matrix, of its values or of its codes.
struct Trial {
  static constexpr int64_t kTokens = 35, kCols = 608, kStrips = 3;  // part tiles, chunks, pieces
  static constexpr int64_t kCodeBytes = (kCols + 4) * kStripRows;   // a strip: fp32 scales, codes
  std::vector<float> x, weights;                                    // [tokens, cols]; [cols, 16]
  std::vector<float> codes;                                         // of strips, whatever they are

  // Of a fixed sequence in [-1, 1) (Numerical Recipes' linear congruence). The codes are the bytes
  // of such numbers.
  Trial()
      : x(kTokens * kCols),
        weights(kStrips * kCols * kStripRows),
        codes(kStrips * kCodeBytes / sizeof(float)) {
    uint32_t state = 1;
    const auto next = [&state] {
      state = state * 1664525u + 1013904223u;
      return static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    };
    std::generate(x.begin(), x.end(), next);
    std::generate(weights.begin(), weights.end(), next);
    std::generate(codes.begin(), codes.end(), next);
  }

  // As pairs_body.h has them, cut to bf16.
  static void Fill(const GemmRun& run, int64_t strip, int64_t begin, int64_t count,
                   std::byte* out) {
    const std::byte* values = run.strips + (strip * kCols + begin) * kStripRows * 4;
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t row = 0; row < kStripRows; ++row, values += 4) {
        const int64_t pair = k / 32 * 16 + k % 16, odd = k / 16 % 2;
        std::memcpy(out + pair * kTileRowBytes + row * 4 + odd * 2, values + 2, 2);
      }
    }
  }

  std::vector<float> Run(const TiledKernels& kernels, bool bytes) const {
    constexpr int64_t kPieces = RoundUp16(kTokens) / kTileRows;
    const int64_t piece_bytes = TileDepth(bytes, kCols) * kTileBytes;
    std::vector<std::byte> tiles(static_cast<size_t>(kPieces * piece_bytes));
    std::vector<float> scale(kPieces * kTileRows), scratch(TiledScratchFloats(kTokens));
    for (int64_t t = 0; t < kPieces * kTileRows; ++t) {
      TileRow row;
      row.x = t < kTokens ? x.data() + t * kCols : nullptr;
      row.cols = kCols;
      row.bytes = bytes;
      row.row = static_cast<int>(t % kTileRows);
      row.tiles = tiles.data() + t / kTileRows * piece_bytes;
      row.scale = scale.data() + t / kTileRows * kTileRows;
      kernels.make_row(row);
    }
    GemmRun run;
    run.fill = Fill;
    run.strips = reinterpret_cast<const std::byte*>(bytes ? codes.data() : weights.data());
    run.strip_bytes = kCodeBytes;
    run.strip_end = kStrips;
    run.rows = kStrips * kStripRows - 3;
    run.cols = kCols;
    run.group.header = kStripRows * sizeof(float);
    run.group.scale = GroupForm::Scale::kF32;
    run.tokens = kTokens;
    const TiledRows rows = {bytes, tiles.data(), scale.data(), 0, kCols};
    run.tiled = &rows;
    run.scratch = scratch.data();
    std::vector<float> out(static_cast<size_t>(kTokens * run.rows));
    run.out = out.data();
    kernels.gemm(run);
    return out;
  }
};

}  // namespace

uint64_t ReadXcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

const char* WhyNoMatrixUnit(const MatrixUnitFacts& facts) {
  if (!facts.avx512_vnni) return "the CPU has no AVX-512 VNNI";
  if ((facts.features & kTileBit) == 0) return "the CPU has no AMX";
  if ((facts.features & kInt8Bit) == 0) return "the CPU has AMX without products of bytes";
  if ((facts.features & kBf16Bit) == 0) return "the CPU has AMX without products of bf16";
  if ((facts.saved & kTileState) != kTileState) return "the operating system does not save AMX";
  const uint32_t row_bytes = facts.palette_rows & 0xffff, tiles = facts.palette_rows >> 16;
  if (row_bytes < kTileRowBytes || tiles < 8 || (facts.palette_max & 0xffff) < kTileRows) {
    return "its tiles are smaller than 8 of 16 rows of 64 bytes";
  }
  return nullptr;
}

const char* WhyNoMatrixUnit() {
  static const char* const reason = FindReason();
  return reason;
}

bool AgreesWithEmulation(const TiledKernels& kernels) {
  const Trial trial;
  if (trial.Run(kernels, false) != trial.Run(amx_plain::kTiled, false)) return false;
  // Sums of 320 products of at most 1: each of their roundings is below 2^-24 * 320.
  const std::vector<float> got = trial.Run(kernels, true),
                           want = trial.Run(amx_plain::kTiled, true);
  for (size_t i = 0; i < want.size(); ++i) {
    if (!(std::abs(got[i] - want[i]) <= 320 * 320 * 0x1p-24f)) return false;
  }
  return true;
}

}  // namespace millrace::kernels
