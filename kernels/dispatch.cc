#include "kernels/dispatch.h"

#include <cpuid.h>

#include "base/check.h"
#include "kernels/cpu/tiers.h"

namespace millrace::kernels {
namespace {

// XCR0: which register files the operating system saves. Encoded by hand, so that this file needs
// no -mxsave.
uint64_t ReadXcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool All(uint32_t bits, uint32_t wanted) {
  return (bits & wanted) == wanted;
}

IsaTier Detect() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return IsaTier::kScalar;
  if (!All(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C)) return IsaTier::kScalar;
  const uint64_t saved = ReadXcr0();
  if ((saved & 0x6) != 0x6) return IsaTier::kScalar;  // SSE and AVX state
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !All(b, bit_AVX2)) return IsaTier::kScalar;
  const bool wide = All(b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
                    All(c, bit_AVX512VNNI) && (saved & 0xe0) == 0xe0;  // opmask, ZMM
  return wide ? IsaTier::kAvx512Vnni : IsaTier::kAvx2;
}

// One line a format: exact and fast by tier, in the order of IsaTier.
struct GemmLine {
  WeightType type;
  GemmFunction exact[3];
  GemmFunction fast[3];
};
constexpr GemmLine kGemm[] = {
    {WeightType::kF32, {scalar::ExactF32, avx2::ExactF32, avx512::ExactF32}, {}},
    {WeightType::kF16, {scalar::ExactF16, avx2::ExactF16, avx512::ExactF16}, {}},
    {WeightType::kBF16, {scalar::ExactBF16, avx2::ExactBF16, avx512::ExactBF16}, {}},
    {WeightType::kQ8_0,
     {scalar::ExactQ8_0, avx2::ExactQ8_0, avx512::ExactQ8_0},
     {scalar::FastQ8_0, avx2::FastQ8_0, avx512::FastQ8_0}},
    {WeightType::kQ4_0,
     {scalar::ExactQ4_0, avx2::ExactQ4_0, avx512::ExactQ4_0},
     {scalar::FastQ4_0, avx2::FastQ4_0, avx512::FastQ4_0}},
    {WeightType::kQ4_1,
     {scalar::ExactQ4_1, avx2::ExactQ4_1, avx512::ExactQ4_1},
     {scalar::FastQ4_1, avx2::FastQ4_1, avx512::FastQ4_1}},
};

constexpr AttentionFunction kAttention[][3] = {
    /* kF32  */ {scalar::AttendF32, avx2::AttendF32, avx512::AttendF32},
    /* kBF16 */ {scalar::AttendBF16, avx2::AttendBF16, avx512::AttendBF16},
};

constexpr RowKernels kRows[] = {
    {scalar::Quantize, scalar::RmsNorm, scalar::SwiGlu, scalar::GeGluTanh, scalar::SoftCap,
     scalar::RotateHalves, scalar::RotateInterleaved, scalar::Exp, scalar::MergeSplits},
    {avx2::Quantize, avx2::RmsNorm, avx2::SwiGlu, avx2::GeGluTanh, avx2::SoftCap,
     avx2::RotateHalves, avx2::RotateInterleaved, avx2::Exp, avx2::MergeSplits},
    {avx512::Quantize, avx512::RmsNorm, avx512::SwiGlu, avx512::GeGluTanh, avx512::SoftCap,
     avx512::RotateHalves, avx512::RotateInterleaved, avx512::Exp, avx512::MergeSplits},
};

}  // namespace

IsaTier DetectIsaTier() {
  static const IsaTier tier = Detect();
  return tier;
}

const char* IsaTierName(IsaTier tier) {
  switch (tier) {
    case IsaTier::kScalar:
      return "scalar";
    case IsaTier::kAvx2:
      return "avx2";
    case IsaTier::kAvx512Vnni:
      return "avx512-vnni";
  }
  return "?";
}

GemmChoice ChooseGemm(WeightType type, ComputeMode mode, IsaTier tier) {
  for (const GemmLine& line : kGemm) {
    if (line.type != type) continue;
    const GemmFunction fast = line.fast[static_cast<int>(tier)];
    if (mode == ComputeMode::kFast && fast != nullptr) return {fast, true};
    return {line.exact[static_cast<int>(tier)], false};
  }
  CHECK(false);  // every WeightType has a line
  return {};
}

AttentionFunction ChooseAttention(KvType type, IsaTier tier) {
  return kAttention[static_cast<int>(type)][static_cast<int>(tier)];
}

const RowKernels& ChooseRowKernels(IsaTier tier) {
  return kRows[static_cast<int>(tier)];
}

}  // namespace millrace::kernels
