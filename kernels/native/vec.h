// Vectors of the instruction set this file is compiled for (FASTLIFT_ISA, FASTLIFT_LANES), through compiler vector types.
// Everything is in an unnamed namespace and no C++ library template is used: the linker must never merge
// a function compiled for one instruction set with its twin of another.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif
#include "isa.h"

#define FASTLIFT_INLINE inline __attribute__((always_inline))
#define FASTLIFT_LAMBDA __attribute__((always_inline))

// adapter_forward -> adapter_forward_avx2: the name under which this instruction set's table finds a function
#define FASTLIFT_JOIN_(op, isa) op##_##isa
#define FASTLIFT_JOIN(op, isa) FASTLIFT_JOIN_(op, isa)
#define FASTLIFT_NAME(op) FASTLIFT_JOIN(op, FASTLIFT_ISA)

namespace fastlift {
namespace {

constexpr int LANES = FASTLIFT_LANES;
constexpr int64_t STREAM_BYTES = 4 << 20; // larger outputs would only push their readers' data out of the caches
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef float vf_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));
typedef uint16_t vh_any __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

struct bf16 {
  uint16_t bits;
};

FASTLIFT_INLINE vf splat(float x) { return x - vf{}; }
FASTLIFT_INLINE vf load(const float* p) { return *(const vf_any*)p; }
FASTLIFT_INLINE vf load(const bf16* p) {
  const vh half = *(const vh_any*)p;
  return (vf)(__builtin_convertvector(half, vu) << 16);
}
FASTLIFT_INLINE void store(float* p, vf x) { *(vf_any*)p = x; }
FASTLIFT_INLINE void store(bf16* p, vf x) {
  const vu bits = (vu)x;
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16; // nearest, ties to even
  const vu quiet = (bits >> 16) | 0x40u;                           // a NaN must not round to infinity
  *(vh_any*)p = __builtin_convertvector((x == x) ? rounded : quiet, vh);
}
// Past the caches; p is aligned to the vector.
FASTLIFT_INLINE void stream(float* p, vf x) {
#if FASTLIFT_LANES == 16 && defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)x);
#elif FASTLIFT_LANES == 8 && defined(__AVX__)
  _mm256_stream_ps(p, (__m256)x);
#elif FASTLIFT_LANES == 4 && defined(__SSE__)
  _mm_stream_ps(p, (__m128)x);
#else
  store(p, x);
#endif
}
FASTLIFT_INLINE void stream(bf16* p, vf x) { store(p, x); }
FASTLIFT_INLINE void stream_fence() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}
// The first n lanes; the others read as zero.
template <class T>
FASTLIFT_INLINE vf load_n(const T* p, int64_t n) {
  if (__builtin_expect(n >= LANES, 1)) return load(p);
  T part[LANES];
  memset(part, 0, sizeof part);
  memcpy(part, p, (size_t)n * sizeof(T));
  return load(part);
}
template <class T>
FASTLIFT_INLINE void store_n(T* p, vf x, int64_t n, bool past_caches = false) {
  if (__builtin_expect(n >= LANES, 1)) {
    if (past_caches) stream(p, x);
    else store(p, x);
    return;
  }
  T part[LANES];
  store(part, x);
  memcpy(p, part, (size_t)n * sizeof(T));
}
// The same along the width of a token, a multiple of 8: only vectors of 16 lanes can end inside one.
template <class T>
FASTLIFT_INLINE vf load_w(const T* p, int64_t n) {
  return LANES <= 8 ? load(p) : load_n(p, n);
}
template <class T>
FASTLIFT_INLINE void store_w(T* p, vf x, int64_t n, bool past_caches = false) {
  if (LANES > 8) store_n(p, x, n, past_caches);
  else if (past_caches) stream(p, x);
  else store(p, x);
}
FASTLIFT_INLINE float sum(vf x) {
  float total = 0.0f;
  for (int i = 0; i < LANES; ++i) total += x[i];
  return total;
}
FASTLIFT_INLINE float square_root(float x) { return __builtin_sqrtf(x); }

// e^x to 1.5 ulp for x in [-87, 88], clamped outside; NaN stays NaN.
FASTLIFT_INLINE vf exponential(vf x) {
  const vf high = splat(88.0f), low = splat(-87.0f);
  x = x > high ? high : x;
  x = x < low ? low : x;
  const float round = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const vf shifted = x * 1.44269504f + round;
  const vf n = shifted - round;
  vf r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const vi power = ((vi)shifted << 23) + (127 << 23);
  return p * (vf)power;
}

// Rows [begin, end) of thread `index` among `threads`: contiguous, fixed by the counts alone.
struct Share {
  int64_t begin, end;
};
FASTLIFT_INLINE Share share_of(int64_t count, int index, int threads) {
  return {count * index / threads, count * (index + 1) / threads};
}
FASTLIFT_INLINE int thread_index() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}
FASTLIFT_INLINE int thread_count() {
#if defined(_OPENMP)
  return omp_get_num_threads();
#else
  return 1;
#endif
}
FASTLIFT_INLINE int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

} // namespace
} // namespace fastlift
