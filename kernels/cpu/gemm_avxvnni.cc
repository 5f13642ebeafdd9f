// Products. Compiled with -mavx2 -mavxvnni -mfma -mf16c.
#include "kernels/cpu/lanes_avxvnni.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/gemm_tiers.h"
#include "kernels/cpu/pairs_body.h"
#include "kernels/cpu/quantize_body.h"

namespace millrace::kernels::avxvnni {
#include "kernels/cpu/gemm_functions.inc"
}  // namespace millrace::kernels::avxvnni
