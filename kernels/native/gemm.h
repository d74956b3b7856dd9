// Register-blocked products for tiles that stay in the caches: acc[M, N] = sum_k a[M, K] b[K, N].
// a is read by broadcast (any strides), b as rows of one or two vectors; what happens to acc is the caller's `finish`.
#pragma once
#include "vec.h"

namespace fastlift {
namespace {

// Accumulators (M x N vectors), N vectors of b and one broadcast must fit the registers: 16, or 32 with AVX-512.
#if defined(FASTLIFT_SMALL_BLOCKS)
constexpr int MAX_ROWS_1 = 3, MAX_ROWS_2 = 2; // sanitized code is large: fewer sizes of blocks, the same ways through them
#elif defined(__AVX512F__)
constexpr int MAX_ROWS_1 = 12, MAX_ROWS_2 = 12;
#elif defined(__AVX2__)
constexpr int MAX_ROWS_1 = 12, MAX_ROWS_2 = 6;
#else
constexpr int MAX_ROWS_1 = 8, MAX_ROWS_2 = 4;
#endif
constexpr int PANEL = 2 * LANES;

struct Left { // a[m, k] = p[m * row + k * step]
  const float* p;
  int64_t row, step;
};

template <int M, int V, bool UNIT_STEP, class Finish>
FASTLIFT_INLINE void block(int64_t depth, Left a, const float* b, int64_t b_step, const Finish& finish) {
  vf acc[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[m][v] = vf{};
  const int64_t step = UNIT_STEP ? 1 : a.step, row = UNIT_STEP ? a.row : 1;
  const float* p = a.p;
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    vf right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) right[v] = load(b + v * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vf left = splat(p[m * row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[m][v] += left * right[v];
    }
    p += step;
    b += b_step;
  }
  // Unrolled, so that the accumulators are never spilled to be indexed.
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) finish(m, v, acc[m][v]);
}

// All rows against one panel of V vectors, in row blocks of nearly equal size; finish(row, v, acc) sees each vector.
template <int V, bool UNIT_STEP, class Finish>
FASTLIFT_INLINE void panel(int64_t rows, int64_t depth, Left a, const float* b, int64_t b_step, const Finish& finish) {
  constexpr int MOST = V == 1 ? MAX_ROWS_1 : MAX_ROWS_2;
  int64_t left = (rows + MOST - 1) / MOST;
  for (int64_t m = 0; m < rows; --left) {
    const int64_t size = (rows - m + left - 1) / left;
    const Left part{a.p + m * (UNIT_STEP ? a.row : 1), a.row, a.step};
    switch (size) {
#define FASTLIFT_CASE(M)                                                                                  \
  case M:                                                                                                 \
    if constexpr (M <= MOST) block<M, V, UNIT_STEP>(depth, part, b, b_step, [&](int i, int v, vf acc) FASTLIFT_LAMBDA { finish(m + i, v, acc); }); \
    break;
      FASTLIFT_CASE(1)
      FASTLIFT_CASE(2)
      FASTLIFT_CASE(3)
      FASTLIFT_CASE(4)
      FASTLIFT_CASE(5)
      FASTLIFT_CASE(6)
      FASTLIFT_CASE(7)
      FASTLIFT_CASE(8)
      FASTLIFT_CASE(9)
      FASTLIFT_CASE(10)
      FASTLIFT_CASE(11)
      FASTLIFT_CASE(12)
#undef FASTLIFT_CASE
    }
    m += size;
  }
}

// Calls visit(integral constant V, first column) over `columns` in panels of two vectors, then one.
template <int V>
struct Vectors {
  static constexpr int value = V;
};
template <class Visit>
FASTLIFT_INLINE void each_panel(int64_t columns, const Visit& visit) {
  int64_t c = 0;
  for (; c + LANES < columns; c += PANEL) visit(Vectors<2>{}, c);
  if (c < columns) visit(Vectors<1>{}, c);
}
// Floats of a matrix [depth, columns] packed for each_panel: panel after panel, each [depth, its width], zero-padded.
FASTLIFT_INLINE int64_t packed_size(int64_t depth, int64_t columns) { return depth * round_up(columns, LANES); }
// Where the panel that starts at `column` begins: all before it are full, so this holds for both widths.
FASTLIFT_INLINE int64_t packed_at(int64_t depth, int64_t column) { return depth * column; }

} // namespace
} // namespace fastlift
