// Products. Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c.
#include "kernels/cpu/lanes_avx512bw.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/gemm_tiers.h"
#include "kernels/cpu/pairs_body.h"
#include "kernels/cpu/quantize_body.h"

namespace millrace::kernels::avx512bw {
#include "kernels/cpu/gemm_functions.inc"
}  // namespace millrace::kernels::avx512bw
