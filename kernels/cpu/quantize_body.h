// Activations with one scale for a token. See gemm_body.h for how this file is included.
#pragma once

#include "kernels/cpu/panel_body.h"

namespace millrace::kernels::body {

// W8A8: one scale for a token, largest / 127, written to all its blocks, so that its products are
// those of any other kind. REQUIRES: cols is a multiple of 32. NaN and infinity as in
// Rows::Quantize.
template <class V>
void QuantizeToken(const float* x, int64_t cols, int8_t* q, float* scale, float* sum,
                   int32_t* bias8) {
  using I = typename V::I;
  const I magnitude = V::SetI(0x7fffffff);
  I top = V::ZeroI();
  for (int64_t k = 0; k < cols; k += 16) {
    top = V::MaxI(top, V::And(V::Bits(V::Load(x + k)), magnitude));
  }
  const int32_t bits = V::ReduceMaxI(top);
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  const bool finite = bits < 0x7f800000;
  const auto inverse = V::Set(finite && largest > 1e-36f ? 127.0f / largest : 0.0f);
  const float step = finite ? largest / 127.0f : largest - largest;
  for (int64_t k = 0; k < cols; k += kBlock, ++scale, ++sum, ++bias8) {
    I qa = V::ZeroI(), qb = V::ZeroI();
    if (finite) {
      qa = V::ToInt(V::Mul(V::Load(x + k), inverse));
      qb = V::ToInt(V::Mul(V::Load(x + k + 16), inverse));
    }
    V::StoreBytes(q + k, qa);
    V::StoreBytes(q + k + 16, qb);
    const int32_t total = V::ReduceAddI(V::AddI(qa, qb));
    *scale = step;
    *sum = step * static_cast<float>(total);
    *bias8 = -8 * total;
  }
}

}  // namespace millrace::kernels::body
