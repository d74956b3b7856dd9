// What both directions of the adapter op share on a CPU: tiles of tokens, packed weights, the statistics of a row.
// Included by a source that is compiled once for each instruction set; the names are its own.
#pragma once
#include "../native/gemm.h"

namespace fastlift {
namespace {

// Tokens a tile: enough to use packed weights several times, few enough that the tiles (one forward, two backward)
// leave room in the second-level cache.
constexpr int64_t TILE_FLOATS = 48 * 800;
constexpr int64_t DEPTH = 256; // depth of a block of the down product: its panel of b (16 KB) stays in the first-level cache

int64_t tile_rows(int64_t width_ld, int64_t rank) {
  const int64_t scale = rank > 64 ? 2 : 1; // weights of a large rank come from the third level: use them more often
  int64_t rows = TILE_FLOATS * scale / width_ld / 12 * 12;
  return rows < 12 ? 12 : rows > 96 ? 96 : rows;
}
// Leading dimension of a tile of fp32 rows: whole vectors, and an odd number of cache lines so that columns do not collide.
int64_t leading(int64_t width) { return (round_up(width, 16) / 16 | 1) * 16; }

struct Packed { // where a [depth, columns] matrix lies packed for each_panel, and its size
  float* p;
  int64_t depth, columns;
};

// Packs this thread's share of the panels of get(k, c).
template <class Get>
void pack(Packed out, int index, int threads, const Get& get) {
  const int64_t panels = (out.columns + PANEL - 1) / PANEL;
  const Share mine = share_of(panels, index, threads);
  each_panel(out.columns, [&](auto vectors, int64_t column) {
    if (column / PANEL < mine.begin || column / PANEL >= mine.end) return;
    constexpr int WIDE = decltype(vectors)::value * LANES;
    float* p = out.p + packed_at(out.depth, column);
    for (int64_t k = 0; k < out.depth; ++k)
      for (int c = 0; c < WIDE; ++c) p[k * WIDE + c] = column + c < out.columns ? get(k, column + c) : 0.0f;
  });
}

struct Sums {
  float first, second;
};

// Mean and variance (two passes over a row in the first-level cache) of a row read as float32 into x.
template <class T>
Sums row_statistics(const T* t, float* x, int64_t width) {
  vf total[2] = {vf{}, vf{}};
  for (int64_t d = 0, i = 0; d < width; d += LANES, ++i) {
    const vf value = load_w(t + d, width - d);
    store(x + d, value);
    total[i & 1] += value;
  }
  const float mean = sum(total[0] + total[1]) / (float)width;
  vf squares[2] = {vf{}, vf{}};
  for (int64_t d = 0, i = 0; d < width; d += LANES, ++i) {
    vf centred = load(x + d) - mean;
    if (LANES > 8 && width - d < LANES)
      for (int lane = (int)(width - d); lane < LANES; ++lane) centred[lane] = 0.0f;
    squares[i & 1] += centred * centred;
  }
  return {mean, sum(squares[0] + squares[1]) / (float)width};
}

template <class T>
bool can_stream(const void* p, int64_t tokens, int64_t width) {
  return (uintptr_t)p % (LANES * 4) == 0 && width % LANES == 0 && tokens * width * (int64_t)sizeof(T) > STREAM_BYTES;
}

} // namespace
} // namespace fastlift
