// Products on emulated tiles. Compiled with -mavx512{f,bw,vl,dq,vnni} -mfma -mf16c.
#include "kernels/cpu/lanes_avx512.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_tiled_body.h"
#include "kernels/cpu/emulated_tiles.h"
#include "kernels/cpu/tiers.h"
#include "kernels/cpu/tiled_body.h"

namespace millrace::kernels::amx_emulated {

using Kernels = body::Tiled<avx512::Lanes, EmulatedTiles>;
struct Lanes : avx512::Lanes {};  // of attention here alone
using AttendBF16 =
    body::TiledAttend<Lanes, EmulatedTiles, body::TilesOfBf16<Lanes>, avx512::AttendPairs>;
using AttendInt8 =
    body::TiledAttend<Lanes, EmulatedTiles, body::TilesOfInt8<Lanes>, avx512::AttendInt8>;
const TiledKernels kTiled = {Kernels::Gemm, Kernels::MakeRow, AttendBF16::Run, AttendInt8::Run};

}  // namespace millrace::kernels::amx_emulated
