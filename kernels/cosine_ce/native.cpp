// Cross-entropy on a block of logits in place: two passes over a row that stays in the caches, no log-softmax stored.
#include "../native/vec.h"

namespace fastlift {
namespace {

constexpr float LOWEST = -3.4028234e38f;

struct Rows {
  const fastlift_cross_entropy_args& a;
  double weight_sum; // of all classes, for label smoothing

  // Plain logit z of LANES classes; z + offset is what the loss sees.
  FASTLIFT_INLINE vf plain(const float* row, int64_t c, int n) const {
    vf z = load_n(row + c, n) * load_n(a.column_scale + c, n);
    if (a.bias) z += load_n(a.bias + c, n);
    return z;
  }

  // First index of the largest plain logit (a NaN counts as the largest, as in PyTorch), from the lanes' best.
  static int64_t first_best(vf best, vi where) {
    int lane = 0;
    for (int i = 1; i < LANES; ++i) {
      const bool better = best[i] > best[lane] || (best[i] != best[i] && best[lane] == best[lane]);
      const bool both_nan = best[i] != best[i] && best[lane] != best[lane];
      const bool tie = (best[i] == best[lane] || both_nan) && where[i] < where[lane];
      if (better || tie) lane = i;
    }
    return where[lane];
  }

  void one(int64_t i) const {
    const int64_t C = a.classes, label = a.labels[i];
    float* row = a.logits + i * C;
    // Pass 1: prediction, largest adjusted logit, and for smoothing the weighted sum; the row becomes adjusted logits.
    vf best = splat(-__builtin_inff()), top = best, smooth = vf{};
    vi where = vi{}, at = vi{};
    for (int lane = 0; lane < LANES; ++lane) at[lane] = lane;
    where = at;
    for (int64_t c = 0; c < C; c += LANES, at += LANES) {
      const int n = (int)(C - c < LANES ? C - c : LANES);
      vf z = plain(row, c, n), adjusted = z;
      if (a.offset) adjusted += load_n(a.offset + c, n);
      if (n < LANES)
        for (int lane = n; lane < LANES; ++lane) z[lane] = adjusted[lane] = -__builtin_inff();
      const vi take = (z > best) | ((z != z) & (best == best));
      best = take ? z : best;
      where = take ? at : where;
      top = (adjusted > top) | (adjusted != adjusted) ? adjusted : top;
      if (a.smoothing > 0.0f) {
        vf term = adjusted;
        if (a.class_weight) term *= load_n(a.class_weight + c, n);
        if (n < LANES)
          for (int lane = n; lane < LANES; ++lane) term[lane] = 0.0f;
        smooth += term;
      }
      store_n(row + c, adjusted, n);
    }
    a.predictions[i] = first_best(best, where);
    if (label == FASTLIFT_IGNORED) {
      a.losses[i] = 0.0f;
      if (a.want_gradient) memset(row, 0, (size_t)C * 4);
      return;
    }
    float largest = top[0];
    for (int lane = 1; lane < LANES; ++lane)
      if (top[lane] > largest || top[lane] != top[lane]) largest = top[lane];
    if (largest < LOWEST) largest = LOWEST; // a row of -inf: NaN below, as in PyTorch
    const float own = row[label];
    // Pass 2: exponentials and their sum.
    vf total = vf{};
    for (int64_t c = 0; c < C; c += LANES) {
      const int n = (int)(C - c < LANES ? C - c : LANES);
      vf e = exponential(load_n(row + c, n) - largest);
      if (n < LANES)
        for (int lane = n; lane < LANES; ++lane) e[lane] = 0.0f;
      total += e;
      if (a.want_gradient) store_n(row + c, e, n);
    }
    const float sum_exp = sum(total), log_sum = __builtin_logf(sum_exp), lse = largest + log_sum;
    const float weight = a.class_weight ? a.class_weight[label] : 1.0f, even = a.smoothing / (float)C;
    float loss = (1.0f - a.smoothing) * weight * (log_sum - (own - largest)); // lse - own would round a small loss away
    if (a.smoothing > 0.0f) loss += even * ((float)weight_sum * lse - sum(smooth));
    a.losses[i] = loss;
    if (a.want_gradient) gradient(row, label, weight, sum_exp, even);
  }

  // Pass 3: exponentials -> gradient of the raw products.
  void gradient(float* row, int64_t label, float weight, float sum_exp, float even) const {
    const int64_t C = a.classes;
    const float hit = (1.0f - a.smoothing) * weight * a.gradient_factor;
    const float share = (hit + even * (float)weight_sum * a.gradient_factor) / sum_exp;
    const float floor = even * a.gradient_factor;
    // Times share below; exact enough: both are of the size of sum_exp. A label of weight 0 has no share either.
    if (hit != 0.0f) row[label] -= hit / share;
    for (int64_t c = 0; c < C; c += LANES) {
      const int n = (int)(C - c < LANES ? C - c : LANES);
      vf g = load_n(row + c, n) * share;
      if (floor != 0.0f) g -= a.class_weight ? load_n(a.class_weight + c, n) * floor : splat(floor);
      store_n(row + c, g * load_n(a.column_scale + c, n), n);
    }
  }
};

} // namespace

int32_t FASTLIFT_NAME(cross_entropy)(const fastlift_cross_entropy_args& a) {
  double weight_sum = (double)a.classes;
  if (a.class_weight) {
    weight_sum = 0.0;
    for (int64_t c = 0; c < a.classes; ++c) weight_sum += a.class_weight[c];
  }
  const Rows op{a, weight_sum};
#pragma omp parallel num_threads(a.threads)
  {
    const Share mine = share_of(a.rows, thread_index(), thread_count());
    for (int64_t i = mine.begin; i < mine.end; ++i) op.one(i);
  }
  return 0;
}

} // namespace fastlift
