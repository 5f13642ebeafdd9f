// Compiled with -mavx512{f,bw,vl,dq} -mfma -mf16c.
#include "kernels/cpu/lanes_avx512.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/row_body.h"
#include "kernels/cpu/tiers.h"

namespace millrace::kernels::avx512 {
#include "kernels/cpu/tier_functions.inc"
}  // namespace millrace::kernels::avx512
