#include "kernels/dispatch.h"

#include <cpuid.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/gemm_tiers.h"
#include "kernels/cpu/tiers.h"
#include "kernels/matrix_unit.h"

namespace millrace::kernels {
namespace {

bool All(uint32_t bits, uint32_t wanted) {
  return (bits & wanted) == wanted;
}

// Of the tiers beyond the scalar one, which this machine runs: bit i for tier i.
unsigned Detect() {
  uint32_t a, b, c, d;
  unsigned tiers = 1;
  auto add = [&tiers](IsaTier tier) { tiers |= 1u << static_cast<int>(tier); };
  if (!__get_cpuid(1, &a, &b, &c, &d)) return tiers;
  if (!All(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C)) return tiers;
  const uint64_t saved = ReadXcr0();
  if ((saved & 0x6) != 0x6) return tiers;  // SSE and AVX state
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !All(b, bit_AVX2)) return tiers;
  add(IsaTier::kAvx2);
  if (All(b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
      (saved & 0xe0) == 0xe0) {  // opmask, ZMM
    add(IsaTier::kAvx512);
    if (All(c, bit_AVX512VNNI)) add(IsaTier::kAvx512Vnni);
  }
  constexpr uint32_t kAvxVnniBit = 1u << 4;  // leaf 7, 1: EAX
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && All(a, kAvxVnniBit)) add(IsaTier::kAvxVnni);
  return tiers;
}

constexpr const GemmKernels* kGemm[] = {scalar::kGemm, avx2::kGemm, avxvnni::kGemm, avx512bw::kGemm,
                                        avx512::kGemm};
constexpr QuantizeFunction kQuantizeToken[] = {scalar::QuantizeToken, avx2::QuantizeToken,
                                               avxvnni::QuantizeToken, avx512bw::QuantizeToken,
                                               avx512::QuantizeToken};
// The other ops have three variants.
int Variant(IsaTier tier) {
  tier = BatchInvariantTier(tier);
  return tier == IsaTier::kScalar ? 0 : tier >= IsaTier::kAvx512 ? 2 : 1;
}

bool HasTiles(IsaTier tier) {
  return tier == IsaTier::kAmx || tier == IsaTier::kAmxEmulated;
}
// REQUIRES: a tier with tiles.
const TiledKernels& KernelsOnTiles(IsaTier tier) {
  if (tier == IsaTier::kAmx) return amx::kTiled;
  const bool vnni = BatchInvariantTier(tier) == IsaTier::kAvx512Vnni;
  return vnni ? amx_emulated::kTiled : amx_plain::kTiled;
}

// Whether vdpbf16ps is the fastest way to its own bytes. Intel's cores run it at half the rate of
// the two multiply-adds that do the same, AMD's at the same rate (docs/performance.md); no feature
// bit tells.
bool HasFastBf16Dots() {
  constexpr uint32_t kAvx512Bf16Bit = 1u << 5;  // leaf 7, 1: EAX
  static const bool has = [] {
    uint32_t a, b, c, d;
    if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx) return false;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && All(a, kAvx512Bf16Bit);
  }();
  return has;
}

constexpr AttentionFunction kAttention[][3] = {
    /* kF32  */ {scalar::AttendF32, avx2::AttendF32, avx512::AttendF32},
    /* kBF16 */ {scalar::AttendBF16, avx2::AttendBF16, avx512::AttendBF16},
    /* kInt8 */ {scalar::AttendInt8, avx2::AttendInt8, avx512::AttendInt8},
};
constexpr AttentionFunction kAttendPairs[] = {scalar::AttendPairs, avx2::AttendPairs,
                                              avx512::AttendPairs};

constexpr RowKernels kRows[] = {
    {scalar::Quantize, scalar::RmsNorm, scalar::SwiGlu, scalar::GeGluTanh, scalar::SoftCap,
     scalar::RotateHalves, scalar::RotateInterleaved, scalar::Exp, scalar::MergeSplits},
    {avx2::Quantize, avx2::RmsNorm, avx2::SwiGlu, avx2::GeGluTanh, avx2::SoftCap,
     avx2::RotateHalves, avx2::RotateInterleaved, avx2::Exp, avx2::MergeSplits},
    {avx512::Quantize, avx512::RmsNorm, avx512::SwiGlu, avx512::GeGluTanh, avx512::SoftCap,
     avx512::RotateHalves, avx512::RotateInterleaved, avx512::Exp, avx512::MergeSplits},
};

}  // namespace

bool RunsIsaTier(IsaTier tier) {
  if (tier == IsaTier::kAmx) return WhyNoMatrixUnit() == nullptr;
  if (tier == IsaTier::kAmxEmulated) return true;
  static const unsigned tiers = Detect();
  return (tiers >> static_cast<int>(tier) & 1) != 0;
}

IsaTier DetectIsaTier() {
  IsaTier best = IsaTier::kScalar;
  for (IsaTier tier : kAllTiers) {
    if (RunsIsaTier(tier)) best = tier;
  }
  return best;
}

IsaTier BatchInvariantTier(IsaTier tier) {
  if (tier == IsaTier::kAmx) return IsaTier::kAvx512Vnni;
  return tier == IsaTier::kAmxEmulated ? DetectIsaTier() : tier;
}

absl::StatusOr<IsaTier> FindIsaTier(std::string_view name) {
  if (name == "auto") return RunsIsaTier(IsaTier::kAmx) ? IsaTier::kAmx : DetectIsaTier();
  if (name == IsaTierName(IsaTier::kAmxEmulated)) return IsaTier::kAmxEmulated;
  std::string runnable, reason;
  for (int i = 0; i <= static_cast<int>(IsaTier::kAmx); ++i) {
    const auto tier = static_cast<IsaTier>(i);
    if (RunsIsaTier(tier)) {
      if (name == IsaTierName(tier)) return tier;
      absl::StrAppend(&runnable, " ", IsaTierName(tier));
    }
  }
  if (name == IsaTierName(IsaTier::kAmx)) reason = absl::StrCat(" (", WhyNoMatrixUnit(), ")");
  return absl::InvalidArgumentError(absl::StrCat("no CPU tier ", std::string(name), reason,
                                                 " on this machine, which runs: auto", runnable));
}

const char* IsaTierName(IsaTier tier) {
  switch (tier) {
    case IsaTier::kScalar:
      return "scalar";
    case IsaTier::kAvx2:
      return "avx2";
    case IsaTier::kAvxVnni:
      return "avx-vnni";
    case IsaTier::kAvx512:
      return "avx512";
    case IsaTier::kAvx512Vnni:
      return "avx512-vnni";
    case IsaTier::kAmx:
      return "amx";
    case IsaTier::kAmxEmulated:
      return "amx-emulated";
  }
  return "?";
}

GemmChoice ChooseGemm(PayloadKind kind, ComputeMode mode, IsaTier tier) {
  tier = BatchInvariantTier(tier);
  const GemmKernels& kernels = kGemm[static_cast<int>(tier)][static_cast<int>(kind)];
  GemmChoice choice;
  choice.quantized = mode == ComputeMode::kFast && kernels.fast != nullptr;
  choice.function = choice.quantized ? kernels.fast : kernels.exact;
  choice.halves = choice.quantized && (kind == PayloadKind::kQ3_K || kind == PayloadKind::kQ6_K);
  return choice;
}

TiledChoice ChooseTiled(const PackedMatrix::Payload& weights, int64_t tokens,
                        const StreamShape& stream) {
  const bool tiled = HasTiles(stream.tier);
  const bool ready = IsPlain(weights.kind) || weights.per_token;
  if (!tiled || stream.mode != ComputeMode::kFast || weights.kind == PayloadKind::kF32 ||
      tokens < (ready ? kTiledTokens : kTiledTokensCoded)) {
    return {};
  }
  const IsaTier tier = BatchInvariantTier(stream.tier);
  return {&KernelsOnTiles(stream.tier), weights.per_token,
          kGemm[static_cast<int>(tier)][static_cast<int>(weights.kind)].fill};
}

QuantizeFunction ChooseQuantizeToken(IsaTier tier) {
  return kQuantizeToken[static_cast<int>(BatchInvariantTier(tier))];
}

AttentionChoice ChooseAttention(KvType type, ComputeMode mode, IsaTier tier) {
  const int variant = Variant(tier);
  if (HasTiles(tier) && mode == ComputeMode::kFast && type != KvType::kF32) {
    const TiledKernels& kernels = KernelsOnTiles(tier);
    return {type == KvType::kBF16 ? kernels.attend_bf16 : kernels.attend_int8, true};
  }
  if (type != KvType::kBF16 || mode != ComputeMode::kFast) {
    return {kAttention[static_cast<int>(type)][variant], false};
  }
  if (BatchInvariantTier(tier) == IsaTier::kAvx512Vnni && HasFastBf16Dots()) {
    return {avx512bf16::AttendPairs, true};
  }
  return {kAttendPairs[variant], true};
}

const RowKernels& ChooseRowKernels(IsaTier tier) {
  return kRows[Variant(tier)];
}

}  // namespace millrace::kernels
