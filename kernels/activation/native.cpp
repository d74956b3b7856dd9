// QuickGELU and GELU on a CPU, each way in one pass; backward recomputes everything from the pre-activation.
#include "../native/vec.h"

namespace fastlift {
namespace {

struct QuickGelu { // x sigmoid(1.702 x)
  static FASTLIFT_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(x * -1.702f)); }
  static FASTLIFT_INLINE vf value(vf x) { return x * sigmoid(x); }
  static FASTLIFT_INLINE vf slope(vf x) {
    const vf s = sigmoid(x);
    return s * (1.0f + 1.702f * x * (1.0f - s));
  }
};

struct Gelu { // x Phi(x)
  // Phi by erf(u)/u as a polynomial of u^2 below 1, and log erfc(u) as a polynomial of u from 1 to 4 (least-squares
  // fits at Chebyshev nodes; absolute error of erf 1.3e-7).
  static FASTLIFT_INLINE vf phi(vf x) {
    const vf u = x * 0.70710678f;
    const vf size = u < 0.0f ? -u : u;
    const vf z = u * u;
    vf near = z * 7.882497448e-05f - 8.018855006e-04f;
    near = near * z + 5.189312156e-03f;
    near = near * z - 2.685432881e-02f;
    near = near * z + 1.128359735e-01f;
    near = near * z - 3.761262596e-01f;
    near = near * z + 1.128379107e+00f;
    const vf v = size > 4.0f ? splat(4.0f) : size;
    vf far = v * -6.582857281e-08f + 3.095204420e-06f;
    far = far * v - 6.006879630e-05f;
    far = far * v + 6.733375485e-04f;
    far = far * v - 5.021044519e-03f;
    far = far * v + 2.699949779e-02f;
    far = far * v - 1.109074205e-01f;
    far = far * v - 6.310888529e-01f;
    far = far * v - 1.130604506e+00f;
    far = far * v + 4.005004885e-04f;
    const vf beyond = size > 4.0f ? vf{} : exponential(far) * 0.5f; // erfc(|u|) / 2
    const vf outer = u < 0.0f ? beyond : 1.0f - beyond;
    return size < 1.0f ? 0.5f + 0.5f * u * near : outer; // NaN: outer, through exponential
  }
  static FASTLIFT_INLINE vf value(vf x) { return x * phi(x); }
  static FASTLIFT_INLINE vf slope(vf x) { return phi(x) + x * exponential(x * x * -0.5f) * 0.39894228f; }
};

template <class Kind, class T, bool BACKWARD>
void run(const fastlift_activation_args& a) {
  const T *x = (const T*)a.x, *d_y = (const T*)a.d_y;
  T* out = (T*)a.out;
  const bool past_caches = (uintptr_t)out % (LANES * 4) == 0 && a.count * (int64_t)sizeof(T) > STREAM_BYTES;
  const int64_t vectors = (a.count + LANES - 1) / LANES;
#pragma omp parallel num_threads(a.threads)
  {
    const Share mine = share_of(vectors, thread_index(), thread_count());
    for (int64_t i = mine.begin * LANES; i < mine.end * LANES; i += LANES) {
      const int n = (int)(a.count - i < LANES ? a.count - i : LANES);
      vf y = load_n(x + i, n);
      if constexpr (BACKWARD) y = Kind::slope(y) * load_n(d_y + i, n);
      else y = Kind::value(y);
      store_n(out + i, y, n, past_caches);
    }
    stream_fence();
  }
}

template <class Kind, class T>
void either(const fastlift_activation_args& a) {
  if (a.backward) run<Kind, T, true>(a);
  else run<Kind, T, false>(a);
}

template <class Kind>
void any(const fastlift_activation_args& a) {
  if (a.dtype == FASTLIFT_FLOAT32) either<Kind, float>(a);
  else either<Kind, bf16>(a);
}

} // namespace

int32_t FASTLIFT_NAME(activation)(const fastlift_activation_args& a) {
  if (a.kind == FASTLIFT_QUICK_GELU) any<QuickGelu>(a);
  else any<Gelu>(a);
  return 0;
}

} // namespace fastlift
