#pragma once
// Whether products may run on this machine's matrix unit (AMX): what the CPU and the operating
// system must say, and a test of its arithmetic before it is trusted. Private to kernels/.

#include <cstdint>

#include "kernels/cpu/tiled.h"

namespace millrace::kernels {

// Null: usable. Else why not, in a few words. The first call asks the system for the tile registers
// and tries some products; it logs a line when those are wrong.
// Thread: any; the first call before threads start, whose signal stacks must have room for tiles.
const char* WhyNoMatrixUnit();

// What CPUID and XGETBV say, apart from where it comes from.
struct MatrixUnitFacts {
  uint32_t features = 0;      // leaf 7, 0: EDX
  uint32_t palette_rows = 0;  // leaf 1DH, 1: EBX, bytes of a row and number of tiles
  uint32_t palette_max = 0;   // leaf 1DH, 1: ECX, rows of a tile
  uint64_t saved = 0;         // XCR0: what the operating system saves
  bool avx512_vnni = false;   // the tier that has the rest
};
// Null: as they should be.
const char* WhyNoMatrixUnit(const MatrixUnitFacts& facts);

// XCR0: which register files the operating system saves. By hand, so that no file needs -mxsave.
// REQUIRES: CPUID says OSXSAVE.
uint64_t ReadXcr0();

// Small products of bytes and of bf16, compared with the plain emulation's: equal bytes, and equal
// within rounding.
bool AgreesWithEmulation(const TiledKernels& kernels);

}  // namespace millrace::kernels
