// The adapter op on a CPU, backward: one pass over the tokens, in tiles that stay in the second-level cache.
// The maths and what was tried are in README.md beside this file.
#include "native_tiles.h"

namespace fastlift {
namespace {

// Sums of one thread over its tokens; after the barrier all threads add them up in the order of the threads.
struct Partial {
  float* hidden_residual; // [r, D] hidden^T d_residual
  float* pre_normed;      // [r, D] d_pre^T x
  float* residual;        // [D]    sum of d_residual
  float* pre;             // [r]    sum of d_pre, right behind (padded to 16)
  static int64_t size(int64_t D, int64_t r) { return 2 * r * D + round_up(D, 16) + round_up(r, 16); }
  static Partial at(float* p, int64_t D, int64_t r) {
    return {p, p + r * D, p + 2 * r * D, p + 2 * r * D + round_up(D, 16)};
  }
};

template <class T>
struct Backward {
  const fastlift_adapter_backward_args& a;
  int64_t D, r, ld, pre_ld;
  Packed up, down;                 // s W_up [D, r]; LN_a's weight * W_down^T [r, D]
  float *base, *row_sum, *ln2_weight; // [r] W_down b_a + b_down; [r] sum_d of packed down; [D] weight of LN_2 (zero-padded)
  float* partials;                 // one Partial a thread
  double* d_scale;                 // one sum a thread
  bool stream_d_t;

  void pack_weights(int index, int threads) const {
    const float s = *a.scale;
    pack(up, index, threads, [&](int64_t d, int64_t j) { return s * a.up_weight[d * r + j]; });
    if (!a.d_t) return;
    pack(down, index, threads, [&](int64_t j, int64_t d) { return a.ln_weight[d] * a.down_weight[j * D + d]; });
    const Share rows = share_of(r, index, threads);
    for (int64_t j = rows.begin; j < rows.end; ++j) {
      vf total = vf{}, weights = vf{};
      for (int64_t d = 0; d < D; d += LANES) {
        const int64_t n = D - d;
        const vf w = load_w(a.down_weight + j * D + d, n);
        total += load_w(a.ln_bias + d, n) * w;
        weights += load_w(a.ln_weight + d, n) * w;
      }
      base[j] = a.down_bias[j] + sum(total);
      row_sum[j] = sum(weights);
    }
  }

  struct Row { // of LayerNorm's backward: d_t = d_residual + rstd (e - mean_e - x mean_ex)
    float rstd, ratio, mean_e, mean_ex;
  };

  // x and d_residual as float32 tiles, the sum of d_residual, and what LN_2 adds to the row's two means.
  Row open_row(int64_t row, float* x, float* g, float* residual_sum) const {
    const T *t = (const T*)a.t + row * D, *d_residual = (const T*)a.d_residual + row * D;
    const float mean = a.mean[row], variance = a.variance[row];
    const float rstd = 1.0f / square_root(variance + a.ln_eps);
    for (int64_t d = 0; d < D; d += LANES) {
      const int64_t n = D - d;
      store(x + d, (load_w(t + d, n) - mean) * rstd);
      const vf value = load_w(d_residual + d, n);
      store(g + d, value);
      store(residual_sum + d, load(residual_sum + d) + value);
    }
    Row out{rstd, 0.0f, 0.0f, 0.0f};
    if (!a.d_t || !a.d_ln2) return out;
    const T* d_ln2 = (const T*)a.d_ln2 + row * D;
    vf e = vf{}, ex = vf{};
    for (int64_t d = 0; d < D; d += LANES) {
      const vf value = load_w(d_ln2 + d, D - d) * load(ln2_weight + d);
      e += value;
      ex += value * load(x + d);
    }
    // With two epsilons LN_2's x is `ratio` times LN_a's.
    out.ratio = a.eps == a.ln_eps ? 1.0f : square_root((variance + a.ln_eps) / (variance + a.eps));
    out.mean_e = out.ratio * sum(e) / (float)D;
    out.mean_ex = out.ratio * out.ratio * out.ratio * sum(ex) / (float)D;
    return out;
  }

  // d_hidden = d_residual (s W_up)
  void through_up(int64_t rows, const float* g, float* pre) const {
    for (int64_t k = 0; k < D; k += DEPTH) {
      const int64_t depth = D - k < DEPTH ? D - k : DEPTH;
      each_panel(r, [&](auto vectors, int64_t j) {
        constexpr int V = decltype(vectors)::value;
        const float* b = up.p + packed_at(D, j) + k * V * LANES;
        panel<V, true>(rows, depth, {g + k, ld, 1}, b, V * LANES, [&](int64_t m, int v, vf acc) FASTLIFT_LAMBDA {
          float* p = pre + m * pre_ld + j + v * LANES;
          store(p, k == 0 ? acc : acc + load(p));
        });
      });
    }
  }

  // d_pre = relu'(hidden) d_hidden in place, its sum, and the bottleneck's share of the row's means:
  // x W + base is `hidden` wherever d_pre is not zero.
  void close_row(int64_t row, float* pre, float* pre_sum, Row& out) const {
    const float* hidden = a.hidden + row * r;
    vf e = vf{}, ex = vf{};
    for (int64_t j = 0; j < r; j += LANES) {
      const int64_t n = r - j;
      const vf h = load_n(hidden + j, n);
      const vf d_pre = h <= 0.0f ? vf{} : load(pre + j); // a NaN passes, as in PyTorch; the padding becomes zero
      store(pre + j, d_pre);
      store(pre_sum + j, load(pre_sum + j) + d_pre);
      if (!a.d_t) continue;
      e += d_pre * load(row_sum + j);
      ex += d_pre * (h - load(base + j));
    }
    out.mean_e += sum(e) / (float)D;
    out.mean_ex += sum(ex) / (float)D;
  }

  // sum[r, D] += left^T right, left [rows, r], right [rows, D]
  void accumulate(int64_t rows, const float* left, int64_t left_ld, const float* right, float* into) const {
    each_panel(D, [&](auto vectors, int64_t d) {
      constexpr int V = decltype(vectors)::value;
      panel<V, false>(r, rows, {left, 1, left_ld}, right + d, ld, [&](int64_t m, int v, vf acc) FASTLIFT_LAMBDA {
        const int64_t c = d + v * LANES;
        float* p = into + m * D + c;
        store_w(p, load_w(p, D - c) + acc, D - c);
      });
    });
  }

  // d_t = d_residual + rstd (e - mean_e - x mean_ex), e = d_pre W + ratio d_ln2 LN_2's weight
  void input_gradient(int64_t row, int64_t rows, const float* x, const float* g, const float* pre, const Row* of) const {
    const T* d_ln2 = (const T*)a.d_ln2;
    T* out = (T*)a.d_t;
    each_panel(D, [&](auto vectors, int64_t d) {
      constexpr int V = decltype(vectors)::value;
      panel<V, true>(rows, r, {pre, pre_ld, 1}, down.p + packed_at(r, d), V * LANES, [&](int64_t m, int v, vf acc) FASTLIFT_LAMBDA {
        const int64_t c = d + v * LANES, at = (row + m) * D + c, in_tile = m * ld + c;
        const Row& one = of[m];
        if (d_ln2) acc += load_w(d_ln2 + at, D - c) * load(ln2_weight + c) * one.ratio;
        acc = load(g + in_tile) + one.rstd * (acc - one.mean_e - load(x + in_tile) * one.mean_ex);
        store_w(out + at, acc, D - c, stream_d_t);
      });
    });
  }

  void run(int index, int threads) const {
    const int64_t most = tile_rows(ld, r);
    float* x = scratch(TILE_SLOT, (size_t)tile_floats());
    if (!x) return;
    float *g = x + most * ld, *pre = g + most * ld;
    Row* rows_of_tile = (Row*)(pre + most * pre_ld);
    // The two vector sums are taken a tile at a time, then added: N single additions would lose digits.
    float *residual_sum = (float*)(rows_of_tile + most), *pre_sum = residual_sum + round_up(D, 16);
    const int64_t vectors = round_up(D, 16) + round_up(r, 16);
    float* sums = partials + index * Partial::size(D, r);
    memset(sums, 0, (size_t)Partial::size(D, r) * 4);
    const Partial mine_sums = Partial::at(sums, D, r);
    const Share mine = share_of(a.tokens, index, threads);
    for (int64_t row = mine.begin; row < mine.end; row += most) {
      const int64_t rows = mine.end - row < most ? mine.end - row : most;
      memset(residual_sum, 0, (size_t)vectors * 4);
      for (int64_t i = 0; i < rows; ++i) rows_of_tile[i] = open_row(row + i, x + i * ld, g + i * ld, residual_sum);
      through_up(rows, g, pre);
      for (int64_t i = 0; i < rows; ++i) close_row(row + i, pre + i * pre_ld, pre_sum, rows_of_tile[i]);
      for (int64_t i = 0; i < vectors; ++i) mine_sums.residual[i] += residual_sum[i];
      accumulate(rows, a.hidden + row * r, r, g, mine_sums.hidden_residual);
      accumulate(rows, pre, pre_ld, x, mine_sums.pre_normed);
      if (a.d_t) input_gradient(row, rows, x, g, pre, rows_of_tile);
    }
    stream_fence();
  }
  int64_t tile_floats() const {
    return tile_rows(ld, r) * (2 * ld + pre_ld + (int64_t)(sizeof(Row) / 4)) + round_up(D, 16) + round_up(r, 16);
  }

  // Adds the threads' sums into those of thread 0, for this thread's share of the rows.
  void add_up(int index, int threads) const {
    const Share mine = share_of(Partial::size(D, r), index, threads);
    for (int other = 1; other < threads; ++other) {
      const float* from = partials + other * Partial::size(D, r);
      for (int64_t i = mine.begin; i < mine.end; ++i) partials[i] += from[i];
    }
  }

  // The seven parameter gradients from the four sums, for this thread's share of the width.
  void parameter_gradients(int index, int threads) const {
    const Partial sums = Partial::at(partials, D, r);
    const float s = *a.scale;
    const Share mine = share_of((D + 7) / 8, index, threads);
    const int64_t begin = mine.begin * 8, end = mine.end * 8 < D ? mine.end * 8 : D;
    double scale_sum = 0.0;
    for (int64_t d = begin; d < end; ++d) {
      a.d_ln_weight[d] = a.d_ln_bias[d] = 0.0f;
      a.d_up_bias[d] = s * sums.residual[d];
      scale_sum += (double)a.up_bias[d] * sums.residual[d];
    }
    for (int64_t j = 0; j < r; ++j) {
      const float *G = sums.pre_normed + j * D, *w = a.down_weight + j * D;
      const float d_bias = sums.pre[j];
      for (int64_t d = begin; d < end; ++d) {
        a.d_down_weight[j * D + d] = G[d] * a.ln_weight[d] + d_bias * a.ln_bias[d];
        a.d_ln_weight[d] += G[d] * w[d];
        a.d_ln_bias[d] += d_bias * w[d];
      }
    }
    for (int64_t d = begin; d < end; ++d) {
      double dot = 0.0; // d_scale is one number out of terms that cancel
      for (int64_t j = 0; j < r; ++j) {
        const float value = sums.hidden_residual[j * D + d];
        a.d_up_weight[d * r + j] = s * value;
        dot += (double)value * a.up_weight[d * r + j];
      }
      scale_sum += dot;
    }
    d_scale[index] = scale_sum;
    if (index == 0) memcpy(a.d_down_bias, sums.pre, (size_t)r * 4);
  }
};

template <class T>
int32_t backward(const fastlift_adapter_backward_args& a) {
  const int64_t D = a.width, r = a.rank, threads = a.threads;
  const int64_t D_wide = round_up(D, LANES), r_wide = round_up(r, 16);
  const int64_t floats = packed_size(D, r) + packed_size(r, D) + 2 * r_wide + D_wide + threads * (Partial::size(D, r) + 2);
  float* memory = scratch(SHARED_SLOT, (size_t)floats + 16);
  if (!memory) return -1;
  float *up = memory, *down = up + packed_size(D, r), *base = down + packed_size(r, D), *row_sum = base + r_wide;
  float *ln2_weight = row_sum + r_wide, *partials = ln2_weight + D_wide;
  double* d_scale = (double*)(partials + threads * Partial::size(D, r));
  memset(base, 0, (size_t)(2 * r_wide + D_wide) * 4); // padding is multiplied by zeros, so it must not be NaN
  if (a.d_ln2 && a.d_t) memcpy(ln2_weight, a.ln2_weight, (size_t)D * 4);
  const Backward<T> op{a,       D,          r,        leading(D), leading(r), {up, D, r}, {down, r, D}, base,
                       row_sum, ln2_weight, partials, d_scale,    can_stream<T>(a.d_t, a.tokens, D)};
  int failed = 0, team = 1;
#pragma omp parallel num_threads(a.threads) reduction(| : failed)
  {
    const int index = thread_index(), count = thread_count();
    if (index == 0) team = count;
    failed |= scratch(TILE_SLOT, (size_t)op.tile_floats()) == nullptr;
    op.pack_weights(index, count);
#pragma omp barrier
    op.run(index, count);
#pragma omp barrier
    op.add_up(index, count);
#pragma omp barrier
    op.parameter_gradients(index, count);
  }
  double total = 0.0;
  for (int i = 0; i < team; ++i) total += d_scale[i];
  *a.d_scale = (float)total;
  return failed ? -1 : 0;
}

} // namespace

int32_t FASTLIFT_NAME(adapter_backward)(const fastlift_adapter_backward_args& a) {
  return a.dtype == FASTLIFT_FLOAT32 ? backward<float>(a) : backward<bf16>(a);
}

} // namespace fastlift
