#define MILLRACE_LOGITS_TIER logits_scalar
#include "kernels/cpu/logits_body.h"
