// Products on emulated tiles, in plain code.
#include "kernels/cpu/lanes_scalar.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_tiled_body.h"
#include "kernels/cpu/emulated_tiles.h"
#include "kernels/cpu/tiers.h"
#include "kernels/cpu/tiled_body.h"

namespace millrace::kernels::amx_plain {

using Kernels = body::Tiled<scalar::Lanes, EmulatedTiles>;
struct Lanes : scalar::Lanes {};  // of attention here alone
using AttendBF16 =
    body::TiledAttend<Lanes, EmulatedTiles, body::TilesOfBf16<Lanes>, scalar::AttendPairs>;
using AttendInt8 =
    body::TiledAttend<Lanes, EmulatedTiles, body::TilesOfInt8<Lanes>, scalar::AttendInt8>;
const TiledKernels kTiled = {Kernels::Gemm, Kernels::MakeRow, AttendBF16::Run, AttendInt8::Run};

}  // namespace millrace::kernels::amx_plain
