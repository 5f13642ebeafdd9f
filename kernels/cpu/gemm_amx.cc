// Products on tiles by the instructions. Compiled with what AVX-512 VNNI is, and AMX.
#include "kernels/cpu/lanes_avx512.h"
// After the lanes, whose macros the bodies use.
#include "kernels/cpu/attention_tiled_body.h"
#include "kernels/cpu/tiers.h"
#include "kernels/cpu/tiled_body.h"

namespace millrace::kernels::amx {
namespace {

// Not GCC's intrinsics: those of version 12 make a tile's number out of the spelling of their
// argument, and their loads do not say that they read memory, so that the stores which fill a tile
// could move behind them. In AT&T syntax the destination comes last.
// Thread: any; the registers are each thread's own.
struct Tiles {
  static void Configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  static void Release() { __asm__ volatile("tilerelease" : : : "memory"); }
  template <int kTile>
  static void Zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                     :
                     : "r"(from), "r"(stride), "i"(kTile)
                     : "memory");
  }
  // Load, of what will not be read again soon.
  template <int kTile>
  static void LoadOnce(const void* from, int64_t stride) {
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2"
                     :
                     : "r"(from), "r"(stride), "i"(kTile)
                     : "memory");
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                     :
                     : "r"(to), "r"(stride), "i"(kTile)
                     : "memory");
  }
  template <int kC, int kA, int kB>
  static void DotBytes() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
  template <int kC, int kA, int kB>
  static void DotBf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};
using Kernels = body::Tiled<avx512::Lanes, Tiles>;
struct Lanes : avx512::Lanes {};  // of attention here alone
using AttendBF16 = body::TiledAttend<Lanes, Tiles, body::TilesOfBf16<Lanes>, avx512::AttendPairs>;
using AttendInt8 = body::TiledAttend<Lanes, Tiles, body::TilesOfInt8<Lanes>, avx512::AttendInt8>;

}  // namespace

const TiledKernels kTiled = {Kernels::Gemm, Kernels::MakeRow, AttendBF16::Run, AttendInt8::Run};

}  // namespace millrace::kernels::amx
