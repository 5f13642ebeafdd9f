// Products on emulated tiles. Compiled with -mavx512{f,bw,vl,dq,vnni} -mfma -mf16c.
#include "kernels/cpu/lanes_avx512.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/emulated_tiles.h"
#include "kernels/cpu/tiled_body.h"

namespace millrace::kernels::amx_emulated {

using Kernels = body::Tiled<avx512::Lanes, EmulatedTiles>;
const TiledKernels kTiled = {Kernels::Gemm, Kernels::MakeRow};

}  // namespace millrace::kernels::amx_emulated
