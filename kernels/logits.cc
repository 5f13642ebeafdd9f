#include "kernels/logits.h"

#include "kernels/stream.h"

namespace millrace::kernels {

namespace logits_scalar {
extern const LogitsKernels kLogits;
}
namespace logits_avx2 {
extern const LogitsKernels kLogits;
}
namespace logits_avx512 {
extern const LogitsKernels kLogits;
}

const LogitsKernels& ChooseLogits(IsaTier tier) {
  tier = BatchInvariantTier(tier);
  if (tier >= IsaTier::kAvx512Vnni) return logits_avx512::kLogits;
  return tier >= IsaTier::kAvx2 ? logits_avx2::kLogits : logits_scalar::kLogits;
}

}  // namespace millrace::kernels
