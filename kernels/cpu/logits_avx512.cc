#define MILLRACE_LOGITS_TIER logits_avx512
#include "kernels/cpu/logits_body.h"
