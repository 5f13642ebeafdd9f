#define MILLRACE_LOGITS_TIER logits_avx2
#include "kernels/cpu/logits_body.h"
