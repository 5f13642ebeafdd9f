// Products. Compiled with -mavx512{f,bw,vl,dq,vnni} -mfma -mf16c.
#include "kernels/cpu/lanes_avx512.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/gemm_tiers.h"
#include "kernels/cpu/pairs_body.h"
#include "kernels/cpu/quantize_body.h"

namespace millrace::kernels::avx512 {
#include "kernels/cpu/gemm_functions.inc"
}  // namespace millrace::kernels::avx512
