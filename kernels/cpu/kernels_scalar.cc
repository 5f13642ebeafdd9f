// Machines without AVX2, and the vector tiers' yardstick.
#include "kernels/cpu/lanes_scalar.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/row_body.h"
#include "kernels/cpu/tiers.h"

namespace millrace::kernels::scalar {
#include "kernels/cpu/tier_functions.inc"
}  // namespace millrace::kernels::scalar
