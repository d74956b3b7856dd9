// The C entry points against a plain double-precision program, for one instruction set: native_test avx2
// Exits with 77 (skipped) where the processor lacks it. Meant for the sanitizer builds as much as for the results.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <vector>

#include "interface.h"

namespace {

int failures = 0;

void expect_close(const char* what, const std::vector<float>& got, const std::vector<double>& truth, double tolerance) {
  double largest = 1e-30, error = 0.0;
  for (size_t i = 0; i < truth.size(); ++i) {
    largest = std::max(largest, fabs(truth[i]));
    error = std::max(error, fabs(got[i] - truth[i]));
  }
  if (!(error <= tolerance * largest)) {
    printf("FAILED %s: error %.3g of %.3g\n", what, error, largest);
    ++failures;
  }
}

std::vector<float> normal(size_t n, unsigned seed, float by = 1.0f, float around = 0.0f) {
  std::mt19937 draw(seed);
  std::normal_distribution<float> distribution(around, by);
  std::vector<float> out(n);
  for (float& x : out) x = distribution(draw);
  return out;
}

struct Adapter { // the definition, forward and backward, in double precision and one token at a time
  int64_t N, D, r;
  std::vector<float> t, w2, b2, wa, ba, down, db, up, ub, scale, g2, g;
  std::vector<double> ln2, residual, d_t, d_wa, d_ba, d_down, d_db, d_up, d_ub, d_scale;

  Adapter(int64_t tokens, int64_t width, int64_t rank)
      : N(tokens), D(width), r(rank), t(normal(N * D, 1, 1.5f, 0.3f)), w2(normal(D, 2, 0.2f, 1)), b2(normal(D, 3)),
        wa(normal(D, 4, 0.2f, 1)), ba(normal(D, 5)), down(normal(r * D, 6, 0.1f)), db(normal(r, 7)),
        up(normal(D * r, 8, 0.3f)), ub(normal(D, 9)), scale{0.7f}, g2(normal(N * D, 10)), g(normal(N * D, 11)),
        ln2(N * D), residual(N * D), d_t(N * D), d_wa(D), d_ba(D), d_down(r * D), d_db(r), d_up(D * r), d_ub(D), d_scale(1) {
    for (int64_t n = 0; n < N; ++n) token(n);
  }

  void token(int64_t n) {
    const float *x = &t[n * D], *go = &g[n * D];
    const double s = scale[0];
    double mean = 0, variance = 0;
    for (int64_t d = 0; d < D; ++d) mean += x[d] / double(D);
    for (int64_t d = 0; d < D; ++d) variance += (x[d] - mean) * (x[d] - mean) / double(D);
    const double rstd = 1 / sqrt(variance + 1e-5);
    std::vector<double> xhat(D), hidden(r), d_hidden(r), e(D);
    for (int64_t d = 0; d < D; ++d) {
      xhat[d] = (x[d] - mean) * rstd;
      ln2[n * D + d] = xhat[d] * w2[d] + b2[d];
    }
    for (int64_t j = 0; j < r; ++j) {
      double sum = db[j];
      for (int64_t d = 0; d < D; ++d) sum += (xhat[d] * wa[d] + ba[d]) * down[j * D + d];
      hidden[j] = std::max(sum, 0.0);
    }
    for (int64_t d = 0; d < D; ++d) {
      double branch = ub[d];
      for (int64_t j = 0; j < r; ++j) branch += hidden[j] * up[d * r + j];
      residual[n * D + d] = x[d] + s * branch;
      d_scale[0] += branch * go[d];
      d_ub[d] += s * go[d];
      for (int64_t j = 0; j < r; ++j) {
        d_hidden[j] += s * go[d] * up[d * r + j];
        d_up[d * r + j] += s * go[d] * hidden[j];
      }
    }
    double mean_e = 0, mean_ex = 0;
    for (int64_t d = 0; d < D; ++d) e[d] = double(g2[n * D + d]) * w2[d];
    for (int64_t j = 0; j < r; ++j) {
      if (hidden[j] <= 0) continue;
      d_db[j] += d_hidden[j];
      for (int64_t d = 0; d < D; ++d) {
        const double normed = xhat[d] * wa[d] + ba[d], through = d_hidden[j] * down[j * D + d];
        d_down[j * D + d] += d_hidden[j] * normed;
        d_wa[d] += through * xhat[d];
        d_ba[d] += through;
        e[d] += through * wa[d];
      }
    }
    for (int64_t d = 0; d < D; ++d) {
      mean_e += e[d] / double(D);
      mean_ex += e[d] * xhat[d] / double(D);
    }
    for (int64_t d = 0; d < D; ++d) d_t[n * D + d] = go[d] + rstd * (e[d] - mean_e - xhat[d] * mean_ex);
  }
};

void test_adapter(int64_t N, int64_t D, int64_t r, int threads) {
  const Adapter truth(N, D, r);
  std::vector<float> ln2(N * D), residual(N * D), mean(N), variance(N), hidden(N * r), d_t(N * D), d_wa(D), d_ba(D),
      d_down(r * D), d_db(r), d_up(D * r), d_ub(D), d_scale(1);
  const fastlift_adapter_forward_args forward{
      N, D, r, FASTLIFT_FLOAT32, threads, 1e-5f, 1e-5f, truth.t.data(), truth.w2.data(), truth.b2.data(), truth.wa.data(),
      truth.ba.data(), truth.down.data(), truth.db.data(), truth.up.data(), truth.ub.data(), truth.scale.data(), ln2.data(),
      residual.data(), mean.data(), variance.data(), hidden.data()};
  if (fastlift_adapter_forward(&forward) != 0) ++failures;
  const fastlift_adapter_backward_args backward{
      N, D, r, FASTLIFT_FLOAT32, threads, 1e-5f, 1e-5f, truth.t.data(), truth.g2.data(), truth.g.data(), mean.data(),
      variance.data(), hidden.data(), truth.w2.data(), truth.wa.data(), truth.ba.data(), truth.down.data(), truth.db.data(),
      truth.up.data(), truth.ub.data(), truth.scale.data(), d_t.data(), d_wa.data(), d_ba.data(), d_down.data(), d_db.data(),
      d_up.data(), d_ub.data(), d_scale.data()};
  if (fastlift_adapter_backward(&backward) != 0) ++failures;
  printf("adapter %lld x %lld, rank %lld, %d threads\n", (long long)N, (long long)D, (long long)r, threads);
  expect_close("ln2", ln2, truth.ln2, 1e-6);
  expect_close("residual", residual, truth.residual, 1e-6);
  expect_close("d_t", d_t, truth.d_t, 2e-6);
  expect_close("d_ln_weight", d_wa, truth.d_wa, 3e-6);
  expect_close("d_ln_bias", d_ba, truth.d_ba, 3e-6);
  expect_close("d_down_weight", d_down, truth.d_down, 3e-6);
  expect_close("d_down_bias", d_db, truth.d_db, 3e-6);
  expect_close("d_up_weight", d_up, truth.d_up, 3e-6);
  expect_close("d_up_bias", d_ub, truth.d_ub, 3e-6);
  expect_close("d_scale", d_scale, truth.d_scale, 2e-4); // one number out of many that cancel
}

void test_cross_entropy(int64_t B, int64_t C, int threads) {
  std::vector<float> logits = normal(B * C, 20), scale(C, 2.0f), offset = normal(C, 21), losses(B);
  const std::vector<float> raw = logits;
  std::vector<int64_t> labels(B), predictions(B);
  std::vector<double> loss(B), gradient(B * C);
  for (int64_t i = 0; i < B; ++i) {
    labels[i] = i % 5 == 1 ? -100 : (i * 7) % C;
    double total = 0;
    for (int64_t c = 0; c < C; ++c) total += exp(2.0 * raw[i * C + c] + offset[c]);
    if (labels[i] < 0) continue;
    loss[i] = log(total) - (2.0 * raw[i * C + labels[i]] + offset[labels[i]]);
    for (int64_t c = 0; c < C; ++c)
      gradient[i * C + c] = 2.0 * 0.1 * (exp(2.0 * raw[i * C + c] + offset[c]) / total - (c == labels[i]));
  }
  const fastlift_cross_entropy_args args{B, C, threads, 1, 0.0f, 0.1f, logits.data(), scale.data(), nullptr,
                                         offset.data(), nullptr, labels.data(), losses.data(), predictions.data()};
  if (fastlift_cross_entropy(&args) != 0) ++failures;
  printf("cross-entropy %lld x %lld\n", (long long)B, (long long)C);
  expect_close("losses", losses, loss, 1e-6);
  expect_close("gradient", logits, gradient, 2e-6);
  for (int64_t i = 0; i < B; ++i)
    if (predictions[i] != std::max_element(&raw[i * C], &raw[i * C] + C) - &raw[i * C]) {
      printf("FAILED prediction %lld\n", (long long)i);
      ++failures;
    }
}

void test_activation(int64_t count, int threads) {
  const std::vector<float> x = normal(count, 30, 3.0f), d_y = normal(count, 31);
  for (int kind : {FASTLIFT_QUICK_GELU, FASTLIFT_GELU}) {
    std::vector<double> y(count), d_x(count);
    for (int64_t i = 0; i < count; ++i) {
      const double v = x[i], s = 1 / (1 + exp(-1.702 * v)), phi = 0.5 * erfc(-v / sqrt(2.0));
      const double density = exp(-v * v / 2) / sqrt(2 * 3.14159265358979323846);
      y[i] = v * (kind == FASTLIFT_QUICK_GELU ? s : phi);
      d_x[i] = d_y[i] * (kind == FASTLIFT_QUICK_GELU ? s * (1 + 1.702 * v * (1 - s)) : phi + v * density);
    }
    std::vector<float> got(count);
    fastlift_activation_args args{count, FASTLIFT_FLOAT32, threads, kind, 0, x.data(), nullptr, got.data()};
    if (fastlift_activation(&args) != 0) ++failures;
    expect_close("activation", got, y, 1e-6);
    args = {count, FASTLIFT_FLOAT32, threads, kind, 1, x.data(), d_y.data(), got.data()};
    if (fastlift_activation(&args) != 0) ++failures;
    expect_close("activation backward", got, d_x, 1e-6);
  }
}

} // namespace

int main(int count, char** arguments) {
  if (count != 2 || fastlift_select_isa(arguments[1]) != 0) return 77;
  if (strcmp(fastlift_isa(), arguments[1]) != 0) return 1;
  fastlift_poison_scratch(1);
  for (int threads : {1, 3}) {
    test_adapter(1, 8, 1, threads);
    test_adapter(67, 64, 4, threads);
    test_adapter(131, 200, 33, threads);
    test_adapter(50, 768, 32, threads);
    test_adapter(20, 24, 512, threads);
    test_cross_entropy(7, 1, threads);
    test_cross_entropy(11, 1003, threads);
    for (int64_t n : {1, 9, 5003}) test_activation(n, threads);
  }
  printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures ? 1 : 0;
}
