// What the argument blocks must be like before anything is read through them: sizes that fit, no pointer missing, no label
// out of range. How much lies behind a pointer only the caller knows; kernels/*/arguments.py hold the tensors to it.
#pragma once
#include "interface.h"

namespace fastlift {

constexpr int64_t MOST_ELEMENTS = INT64_C(1) << 40, MOST_RANK = 512, MOST_CLASSES = INT64_C(1) << 30; // class indices are int32
constexpr int32_t MOST_THREADS = 4096;

inline bool none_null() { return true; }
template <class... Rest>
bool none_null(const void* first, Rest... rest) {
  return first && none_null(rest...);
}

inline bool fits(int64_t rows, int64_t columns, int32_t threads) {
  return rows >= 0 && columns >= 1 && columns <= MOST_ELEMENTS && rows <= MOST_ELEMENTS / columns && threads >= 1 &&
         threads <= MOST_THREADS;
}
inline bool known_dtype(int32_t dtype) { return dtype == FASTLIFT_FLOAT32 || dtype == FASTLIFT_BFLOAT16; }

template <class Args> // of the adapter, either way
bool valid_adapter(const Args& a) {
  return fits(a.tokens, a.width, a.threads) && a.width % 8 == 0 && a.rank >= 1 && a.rank <= MOST_RANK &&
         fits(a.rank, a.width, a.threads) && known_dtype(a.dtype) &&
         none_null(a.t, a.ln_weight, a.ln_bias, a.down_weight, a.down_bias, a.up_weight, a.up_bias, a.scale);
}

inline bool valid(const fastlift_adapter_forward_args& a) {
  return valid_adapter(a) && none_null(a.residual) && (!a.ln2_weight || none_null(a.ln2_bias, a.ln2)) &&
         (!a.mean || none_null(a.variance, a.hidden));
}

inline bool valid(const fastlift_adapter_backward_args& a) {
  return valid_adapter(a) && none_null(a.d_residual, a.mean, a.variance, a.hidden) &&
         (!a.d_ln2 || !a.d_t || a.ln2_weight) &&
         none_null(a.d_ln_weight, a.d_ln_bias, a.d_down_weight, a.d_down_bias, a.d_up_weight, a.d_up_bias, a.d_scale);
}

inline bool valid(const fastlift_cross_entropy_args& a) {
  if (!fits(a.rows, a.classes, a.threads) || a.classes > MOST_CLASSES) return false;
  if (!none_null(a.logits, a.column_scale, a.labels, a.losses, a.predictions)) return false;
  for (int64_t i = 0; i < a.rows; ++i)
    if (a.labels[i] != FASTLIFT_IGNORED && (a.labels[i] < 0 || a.labels[i] >= a.classes)) return false;
  return true;
}

inline bool valid(const fastlift_activation_args& a) {
  return fits(a.count, 1, a.threads) && known_dtype(a.dtype) &&
         (a.kind == FASTLIFT_QUICK_GELU || a.kind == FASTLIFT_GELU) && none_null(a.x, a.out) && (!a.backward || a.d_y);
}

} // namespace fastlift
