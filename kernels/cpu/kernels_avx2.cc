// Compiled with -mavx2 -mfma -mf16c.
#include "kernels/cpu/lanes_avx2.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/row_body.h"
#include "kernels/cpu/tiers.h"

namespace millrace::kernels::avx2 {
#include "kernels/cpu/tier_functions.inc"
}  // namespace millrace::kernels::avx2
