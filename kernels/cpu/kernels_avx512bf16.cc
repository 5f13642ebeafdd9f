// Attention. Compiled with -mavx512{f,bw,vl,dq,bf16} -mfma -mf16c.
#include "kernels/cpu/lanes_avx512bf16.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/tiers.h"

namespace millrace::kernels::avx512bf16 {

void AttendPairs(const AttentionItem& item) {
  body::Attend<Lanes, body::KvDots<Lanes>>::Run(item);
}

}  // namespace millrace::kernels::avx512bf16
