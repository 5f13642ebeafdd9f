#pragma once
// How the weight types lie in files: codes and scales of one row. Private to kernels/.

#include "kernels/weights.h"

namespace millrace::kernels {

// Scales of one row in one group of columns, in the file's own numbers.
struct RowScales {
  uint32_t scale = 0;        // bits of d or of the grouped types' scale
  uint16_t minimum = 0;      // bits of fp16 m or dmin
  int16_t zero = 0;          // zero point of a grouped type
  int8_t parts[16] = {};     // K-quants' scales; the eight u8 ones fit, being 6 bits wide
  uint8_t minimums[8] = {};  // K-quants' minimums
};

float HalfToFloat(uint16_t h);
float BFloatToFloat(uint16_t h);
// The nearest fp16, ties to even. REQUIRES: finite, below 65520 in magnitude.
uint16_t FloatToHalf(float f);
// `bits` of a plain type.
float ScaleToFloat(WeightType type, uint32_t bits);
// Of one element of a plain array.
uint32_t ReadScaleBits(WeightType type, const void* p, int64_t index);

// Of a grouped type: bits of a code, columns that share a scale, their number, where it is.
int CodeBits(WeightType type);
int64_t GroupColumns(const RawMatrix& raw);
int64_t GroupCount(const RawMatrix& raw);
int64_t GroupOfColumn(const RawMatrix& raw, int64_t col);
bool HasZeros(const RawMatrix& raw);  // that differ from 2^(bits - 1)

// Code of one value of a grouped type, as stored; int8 + 128.
uint8_t ReadCode(const RawMatrix& raw, int64_t row, int64_t col);
// Codes of columns [32 block, 32 block + 32) of a block type, signed ones + 128.
void ReadCodes(const RawMatrix& raw, int64_t row, int64_t block, uint8_t* codes);
// `group`: of a grouped type, or the index of the file's block.
RowScales ReadScales(const RawMatrix& raw, int64_t row, int64_t group);

// The values of 32 codes, the `block`th of their group.
void Dequantize32(WeightType type, const RowScales& scales, int64_t block, const uint8_t* codes,
                  float* out);
float DequantizeGrouped(WeightType scale_type, const RowScales& scales, uint8_t code);

}  // namespace millrace::kernels
