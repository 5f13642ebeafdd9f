// Products on emulated tiles, in plain code.
#include "kernels/cpu/lanes_scalar.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/emulated_tiles.h"
#include "kernels/cpu/tiled_body.h"

namespace millrace::kernels::amx_plain {

using Kernels = body::Tiled<scalar::Lanes, EmulatedTiles>;
const TiledKernels kTiled = {Kernels::Gemm, Kernels::MakeRow};

}  // namespace millrace::kernels::amx_plain
