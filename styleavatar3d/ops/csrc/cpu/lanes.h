// A vector of floats as wide as the machine's registers, and the few functions of it that rendering needs.
//
// GCC's and Clang's vector extensions: the same source becomes AVX-512, AVX2 or baseline code by compiler flags.
// Written for strict floating point. Under -ffast-math 1 / (1 + exp(x)) may turn into inf * 0.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(LANES * sizeof(int32_t))));

inline Lanes broadcast(float value) { return Lanes{} + value; }
inline Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

// Not-a-number passes through, so that a broken network shows in the picture instead of hiding behind a limit.
inline Lanes limit(Lanes x, float low, float high) {
  x = x < low ? broadcast(low) : x;
  return x > high ? broadcast(high) : x;
}

inline float sum(Lanes x) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += x[lane];
  return total;
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2; the Taylor series to r^7 is exact to 1e-8 there.
inline Lanes exponential(Lanes x) {
  constexpr float LOG2_E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
  constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  x = limit(x, -87.0f, 88.0f);
  const Lanes shifted = x * LOG2_E + ROUNDER;
  const Lanes n = shifted - ROUNDER;
  const Lanes r = x - n * LN2_HIGH - n * LN2_LOW;
  Lanes series = broadcast(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    series = series * r + coefficient;
  IntLanes bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127 << 23);
  Lanes power;
  std::memcpy(&power, &bits, sizeof power);
  return series * power;
}

inline Lanes sigmoid(Lanes x) { return 1.0f / (1.0f + exponential(-x)); }

// log(1 + exp(x)) = max(x, 0) + log(1 + y), y = exp(-|x|), and log(1 + y) = 2 atanh(y / (2 + y)).
inline Lanes softplus(Lanes x) {
  const Lanes y = exponential(x < 0 ? x : -x);
  const Lanes z = y / (y + 2.0f);
  const Lanes square = z * z;
  Lanes series = broadcast(1.0f / 13);
  for (float coefficient : {1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f})
    series = series * square + coefficient;
  return larger(x, Lanes{}) + 2.0f * z * series;
}

// While one lives, numbers below 1e-38 count as 0. Light that got through opaque matter is made of them, each costs
// a processor about a hundred cycles, and together they took most of a backward pass through a trained field.
class TinyIsZero {
#if defined(__SSE__)
  static constexpr unsigned FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040;
  const unsigned before = _mm_getcsr();

 public:
  TinyIsZero() { _mm_setcsr(before | FLUSH_RESULTS | FLUSH_OPERANDS); }
  ~TinyIsZero() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  static constexpr uint64_t FLUSH = uint64_t(1) << 24;
  uint64_t before;
  static void set(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }

 public:
  TinyIsZero() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    set(before | FLUSH);
  }
  ~TinyIsZero() { set(before); }
#else
 public:
  TinyIsZero() {}
#endif
  TinyIsZero(const TinyIsZero&) = delete;
};
