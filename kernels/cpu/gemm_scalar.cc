// Products of machines without AVX2, and the vector tiers' yardstick.
#include "kernels/cpu/lanes_scalar.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/gemm_tiers.h"
#include "kernels/cpu/pairs_body.h"
#include "kernels/cpu/quantize_body.h"

namespace millrace::kernels::scalar {
#include "kernels/cpu/gemm_functions.inc"
}  // namespace millrace::kernels::scalar
