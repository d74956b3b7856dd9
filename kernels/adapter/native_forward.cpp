// The adapter op on a CPU, forward: one pass over the tokens, in tiles that stay in the second-level cache.
// The maths and what was tried are in README.md beside this file.
#include "native_tiles.h"

namespace fastlift {
namespace {

template <class T>
struct Forward {
  const fastlift_adapter_forward_args& a;
  int64_t D, r, ld, hidden_ld;
  Packed down, up;
  float *base, *up_bias; // [r] W_down b_a + b_down; [D] s b_up
  bool stream_ln2, stream_residual;

  void pack_weights(int index, int threads) const {
    const float s = *a.scale;
    pack(down, index, threads, [&](int64_t d, int64_t j) { return a.ln_weight[d] * a.down_weight[j * D + d]; });
    pack(up, index, threads, [&](int64_t j, int64_t d) { return s * a.up_weight[d * r + j]; });
    const Share rows = share_of(r, index, threads);
    for (int64_t j = rows.begin; j < rows.end; ++j) {
      vf total = vf{};
      for (int64_t d = 0; d < D; d += LANES)
        total += load_w(a.ln_bias + d, D - d) * load_w(a.down_weight + j * D + d, D - d);
      base[j] = a.down_bias[j] + sum(total);
    }
    const Share columns = share_of(D, index, threads);
    for (int64_t d = columns.begin; d < columns.end; ++d) up_bias[d] = s * a.up_bias[d];
  }

  // x = (t - mean) rstd of LN_a into the tile, LN_2(t) to memory.
  void normalise(int64_t row, float* x) const {
    const T* t = (const T*)a.t + row * D;
    const Sums statistics = row_statistics(t, x, D);
    const float mean = statistics.first, variance = statistics.second;
    if (a.mean) {
      a.mean[row] = mean;
      a.variance[row] = variance;
    }
    const float rstd = 1.0f / square_root(variance + a.ln_eps);
    if (!a.ln2_weight) {
      for (int64_t d = 0; d < D; d += LANES) store(x + d, (load(x + d) - mean) * rstd);
      return;
    }
    const float rstd2 = 1.0f / square_root(variance + a.eps);
    T* out = (T*)a.ln2 + row * D;
    for (int64_t d = 0; d < D; d += LANES) {
      const int64_t n = D - d;
      const vf centred = load(x + d) - mean;
      store(x + d, centred * rstd);
      const vf y = centred * rstd2 * load_w(a.ln2_weight + d, n) + load_w(a.ln2_bias + d, n);
      store_w(out + d, y, n, stream_ln2);
    }
  }

  // hidden = relu(x W + base), in blocks of the depth
  void project_down(int64_t rows, const float* x, float* hidden) const {
    for (int64_t k = 0; k < D; k += DEPTH) {
      const int64_t depth = D - k < DEPTH ? D - k : DEPTH;
      const bool last = k + depth == D;
      each_panel(r, [&](auto vectors, int64_t j) {
        constexpr int V = decltype(vectors)::value;
        const float* b = down.p + packed_at(D, j) + k * V * LANES;
        panel<V, true>(rows, depth, {x + k, ld, 1}, b, V * LANES, [&](int64_t m, int v, vf acc) FASTLIFT_LAMBDA {
          float* h = hidden + m * hidden_ld + j + v * LANES;
          acc += load(k == 0 ? base + j + v * LANES : h);
          if (last) acc = acc < 0.0f ? vf{} : acc; // NaN stays
          store(h, acc);
        });
      });
    }
  }

  // residual = t + hidden W + b
  void project_up(int64_t row, int64_t rows, const float* hidden) const {
    const T* t = (const T*)a.t + row * D;
    T* out = (T*)a.residual + row * D;
    each_panel(D, [&](auto vectors, int64_t d) {
      constexpr int V = decltype(vectors)::value;
      panel<V, true>(rows, r, {hidden, hidden_ld, 1}, up.p + packed_at(r, d), V * LANES, [&](int64_t m, int v, vf acc) FASTLIFT_LAMBDA {
        const int64_t c = d + v * LANES, at = m * D + c;
        store_w(out + at, acc + load(up_bias + c) + load_w(t + at, D - c), D - c, stream_residual);
      });
    });
  }

  void run(int index, int threads) const {
    const int64_t most = tile_rows(ld, r);
    float* x = scratch(TILE_SLOT, (size_t)(most * (ld + hidden_ld)));
    if (!x) return;
    float* hidden = x + most * ld;
    const Share mine = share_of(a.tokens, index, threads);
    for (int64_t row = mine.begin; row < mine.end; row += most) {
      const int64_t rows = mine.end - row < most ? mine.end - row : most;
      for (int64_t i = 0; i < rows; ++i) normalise(row + i, x + i * ld);
      project_down(rows, x, hidden);
      if (a.hidden)
        for (int64_t i = 0; i < rows; ++i) memcpy(a.hidden + (row + i) * r, hidden + i * hidden_ld, (size_t)r * 4);
      project_up(row, rows, hidden);
    }
    stream_fence();
  }
};

template <class T>
int32_t forward(const fastlift_adapter_forward_args& a) {
  const int64_t D = a.width, r = a.rank;
  const int64_t D_wide = round_up(D, LANES), r_wide = round_up(r, LANES);
  float* memory = scratch(SHARED_SLOT, (size_t)(packed_size(D, r) + packed_size(r, D) + r_wide + D_wide));
  if (!memory) return -1;
  float *down = memory, *up = down + packed_size(D, r), *base = up + packed_size(r, D), *up_bias = base + r_wide;
  memset(base, 0, (size_t)(r_wide + D_wide) * 4); // the padding is added to zeros that nobody reads, but must not be NaN
  const Forward<T> op{a,    D,       r, leading(D), leading(r), {down, D, r}, {up, r, D},
                      base, up_bias, can_stream<T>(a.ln2, a.tokens, D), can_stream<T>(a.residual, a.tokens, D)};
  int failed = 0;
#pragma omp parallel num_threads(a.threads) reduction(| : failed)
  {
    failed |= scratch(TILE_SLOT, (size_t)(tile_rows(op.ld, r) * (op.ld + op.hidden_ld))) == nullptr;
    op.pack_weights(thread_index(), thread_count());
#pragma omp barrier
    op.run(thread_index(), thread_count());
  }
  return failed ? -1 : 0;
}

} // namespace

int32_t FASTLIFT_NAME(adapter_forward)(const fastlift_adapter_forward_args& a) {
  return a.dtype == FASTLIFT_FLOAT32 ? forward<float>(a) : forward<bf16>(a);
}

} // namespace fastlift
