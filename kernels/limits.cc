#include "kernels/limits.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "base/check.h"
#include "base/cpu_facts.h"
#include "kernels/cpu/tiled.h"
#include "kernels/stream.h"

// The functions below carry their instruction set themselves: each is called only where CpuModel
// says that the machine has it, and this file needs no flags of its own.
#define MILLRACE_TARGET(sets) __attribute__((target(sets), noinline))

namespace millrace::kernels {
namespace {

using Clock = std::chrono::steady_clock;

// The median rate of windows, each of which does `work` units on every worker.
double MedianRate(ThreadPool& pool, double work, ProbeTime time,
                  const std::function<void(int worker)>& window) {
  std::vector<double> rates;
  pool.Run(window);  // wakes the workers and the clock of the CPU
  const auto end = Clock::now() + std::chrono::duration<double>(time.seconds);
  while (Clock::now() < end || rates.size() < 3) {
    const auto begin = Clock::now();
    pool.Run(window);
    rates.push_back(work * pool.workers() /
                    std::chrono::duration<double>(Clock::now() - begin).count());
  }
  const auto middle = rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  return *middle;
}

// Sums are kept so that the loads are; 2 KiB ahead was the best distance on the machines tried.
constexpr size_t kAhead = 2048;

MILLRACE_TARGET("avx512f")
uint64_t ReadAvx512(const std::byte* data, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    for (size_t line = 0; line < 256; line += 64) {
      __builtin_prefetch(data + i + kAhead + line, 0, 2);
    }
    a = _mm512_add_epi64(a, _mm512_load_si512(data + i));
    b = _mm512_add_epi64(b, _mm512_load_si512(data + i + 64));
    c = _mm512_add_epi64(c, _mm512_load_si512(data + i + 128));
    d = _mm512_add_epi64(d, _mm512_load_si512(data + i + 192));
  }
  const __m512i sum = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sum);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}

MILLRACE_TARGET("avx2")
uint64_t ReadAvx2(const std::byte* data, size_t bytes) {
  __m256i sums[8] = {};
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    for (size_t line = 0; line < 256; line += 64) {
      __builtin_prefetch(data + i + kAhead + line, 0, 2);
    }
    const __m256i* part = reinterpret_cast<const __m256i*>(data + i);
    for (int v = 0; v < 8; ++v) sums[v] = _mm256_add_epi64(sums[v], _mm256_load_si256(part + v));
  }
  alignas(32) uint64_t lanes[4];
  for (int v = 1; v < 8; ++v) sums[0] = _mm256_add_epi64(sums[0], sums[v]);
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

uint64_t ReadPlain(const std::byte* data, size_t bytes) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= bytes / 8; i += 8) {
    for (size_t w = 0; w < 8; ++w) sums[w] += words[i + w];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

// Twelve chains hide the latency of a dot product (4-5 cycles, two a cycle) and leave registers for
// the operands. A window is 20 M instructions at most: some milliseconds.
constexpr int kChains = 12;
constexpr int kTurns = 1 << 20;

MILLRACE_TARGET("avx512f,avx512vnni")
uint32_t DotAvx512Vnni(uint32_t seed) {
  __m512i chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_epi32(c);
  const __m512i a = _mm512_set1_epi32(static_cast<int>(seed)),
                b = _mm512_set1_epi32(static_cast<int>(seed + 1));
  for (int i = 0; i < kTurns; ++i) {
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_dpbusd_epi32(chains[c], a, b);
  }
  for (int c = 1; c < kChains; ++c) chains[0] = _mm512_add_epi32(chains[0], chains[c]);
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(chains[0])));
}

MILLRACE_TARGET("avx2,avxvnni")
uint32_t DotAvxVnni(uint32_t seed) {
  __m256i chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = _mm256_set1_epi32(c);
  const __m256i a = _mm256_set1_epi32(static_cast<int>(seed)),
                b = _mm256_set1_epi32(static_cast<int>(seed + 1));
  for (int i = 0; i < kTurns; ++i) {
    for (int c = 0; c < kChains; ++c) chains[c] = _mm256_dpbusd_avx_epi32(chains[c], a, b);
  }
  for (int c = 1; c < kChains; ++c) chains[0] = _mm256_add_epi32(chains[0], chains[c]);
  return static_cast<uint32_t>(_mm256_extract_epi32(chains[0], 0));
}

// Three instructions do what VNNI does in one: products of pairs, of quads, and the sum.
MILLRACE_TARGET("avx2")
uint32_t DotAvx2(uint32_t seed) {
  __m256i chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = _mm256_set1_epi32(c);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi32(static_cast<int>(seed));
  const __m256i b = _mm256_set1_epi32(static_cast<int>(seed + 1));
  for (int i = 0; i < kTurns; ++i) {
    for (int c = 0; c < kChains; ++c) {
      // An operand that the compiler cannot know, or it would take the product out of the loop.
      __asm__ volatile("" : "+x"(a));
      const __m256i pairs = _mm256_maddubs_epi16(a, b);
      chains[c] = _mm256_add_epi32(chains[c], _mm256_madd_epi16(pairs, ones));
    }
  }
  for (int c = 1; c < kChains; ++c) chains[0] = _mm256_add_epi32(chains[0], chains[c]);
  return static_cast<uint32_t>(_mm256_extract_epi32(chains[0], 0));
}

// Four sums of 16 x 16 x 64 products, as a 2 x 2 block of tiles has them; an eighth of the others'
// turns takes as long. By hand for the reasons in cpu/gemm_amx.cc.
constexpr int kTileTurns = kTurns / 8;
uint32_t DotAmx(uint32_t seed) {
  const TileConfig config;
  alignas(64) uint32_t operands[256];
  for (uint32_t& word : operands) word = seed++;
  const int64_t stride = kTileRowBytes;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  __asm__ volatile(
      "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
      "tileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%0,%1,1), %%tmm5\n\t"
      "tileloadd (%0,%1,1), %%tmm6\n\ttileloadd (%0,%1,1), %%tmm7"
      :
      : "r"(operands), "r"(stride)
      : "memory");
  for (int i = 0; i < kTileTurns; ++i) {
    __asm__ volatile(
        "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\ttdpbssd %%tmm7, %%tmm4, %%tmm1\n\t"
        "tdpbssd %%tmm6, %%tmm5, %%tmm2\n\ttdpbssd %%tmm7, %%tmm5, %%tmm3"
        :
        :
        :);
  }
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n\ttilerelease"
                   :
                   : "r"(operands), "r"(stride)
                   : "memory");
  return operands[0];
}

// Plain multiplies and adds of eight lanes at best: a floor for machines without AVX2.
uint32_t DotPlain(uint32_t seed) {
  uint32_t chains[kChains] = {};
  for (int i = 0; i < kTurns; ++i) {
    for (int c = 0; c < kChains; ++c) {
      __asm__ volatile("" : "+r"(seed));
      chains[c] += seed * (seed + 1);
    }
  }
  uint32_t sum = 0;
  for (const uint32_t chain : chains) sum += chain;
  return sum;
}

struct DotProbe {
  uint32_t (*run)(uint32_t seed) = &DotPlain;
  double products = 1.0 * kChains * kTurns;  // of a run
  const char* name = "scalar imul";
};

IntegerPeak Measure(ThreadPool& pool, const DotProbe& probe, ProbeTime time) {
  std::vector<uint32_t> sums(static_cast<size_t>(pool.workers()) * 16);
  const double rate = MedianRate(pool, 2 * probe.products, time, [&](int worker) {
    uint32_t& sum = sums[static_cast<size_t>(worker) * 16];
    sum = probe.run(sum + static_cast<uint32_t>(worker));
  });
  return {rate, probe.name};
}

}  // namespace

double ReadBandwidth(ThreadPool& pool, std::span<const std::byte> buffer, ProbeTime time) {
  const size_t part = buffer.size() / static_cast<size_t>(pool.workers()) / 4096 * 4096;
  CHECK(part > 0 && reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0);
  const CpuModel cpu = ReadCpuModel();
  const auto read = cpu.Has("avx512f") ? &ReadAvx512 : cpu.Has("avx2") ? &ReadAvx2 : &ReadPlain;
  std::vector<uint64_t> sums(static_cast<size_t>(pool.workers()) * 8);
  return MedianRate(pool, static_cast<double>(part), time, [&](int worker) {
    sums[static_cast<size_t>(worker) * 8] +=
        read(buffer.data() + static_cast<size_t>(worker) * part, part);
  });
}

IntegerPeak MeasureIntegerPeak(ThreadPool& pool, DotInstruction instruction, ProbeTime time) {
  const CpuModel cpu = ReadCpuModel();
  constexpr double kSteps = 1.0 * kChains * kTurns;
  switch (instruction) {
    case DotInstruction::kAmx:
      if (!RunsIsaTier(IsaTier::kAmx)) return {};
      return Measure(pool, {&DotAmx, 4.0 * 16 * 16 * 64 * kTileTurns, "amx-int8 tdpbssd"}, time);
    case DotInstruction::kAvx512Vnni:
      if (!cpu.Has("avx512_vnni")) return {};
      return Measure(pool, {&DotAvx512Vnni, 64 * kSteps, "avx512-vnni vpdpbusd"}, time);
    case DotInstruction::kAvxVnni:
      if (!cpu.Has("avx_vnni")) return {};
      return Measure(pool, {&DotAvxVnni, 32 * kSteps, "avx-vnni vpdpbusd"}, time);
    case DotInstruction::kAvx2Maddubs:
      if (!cpu.Has("avx2")) return {};
      return Measure(pool, {&DotAvx2, 32 * kSteps, "avx2 vpmaddubsw"}, time);
  }
  return {};
}

IntegerPeak MeasureIntegerPeak(ThreadPool& pool, ProbeTime time) {
  for (const DotInstruction instruction :
       {DotInstruction::kAmx, DotInstruction::kAvx512Vnni, DotInstruction::kAvxVnni,
        DotInstruction::kAvx2Maddubs}) {
    const IntegerPeak peak = MeasureIntegerPeak(pool, instruction, time);
    if (peak.ops_per_second > 0) return peak;
  }
  return Measure(pool, {}, time);
}

}  // namespace millrace::kernels
