// The plain C interface of the native library: argument blocks that Python fills (kernels/native/library.py mirrors them).
// Pointers to parameters are float32; activations are float32 or bfloat16 (dtype 0 or 1); everything is contiguous.
#pragma once
#include <stdint.h>

#define FASTLIFT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum fastlift_dtype { FASTLIFT_FLOAT32 = 0, FASTLIFT_BFLOAT16 = 1 };
enum fastlift_activation { FASTLIFT_QUICK_GELU = 0, FASTLIFT_GELU = 1 };
enum fastlift_label { FASTLIFT_IGNORED = -100 };
enum fastlift_status { FASTLIFT_DONE = 0, FASTLIFT_NO_MEMORY = -1, FASTLIFT_INVALID = -2 }; // nothing was read where invalid

// N tokens, D width, r rank
typedef struct {
  int64_t tokens, width, rank;
  int32_t dtype, threads;
  float eps, ln_eps;
  const void* t;            // [N, D]
  const float* ln2_weight;  // [D] or null: no LN_2
  const float* ln2_bias;    // [D]
  const float* ln_weight;   // [D]
  const float* ln_bias;     // [D]
  const float* down_weight; // [r, D]
  const float* down_bias;   // [r]
  const float* up_weight;   // [D, r]
  const float* up_bias;     // [D]
  const float* scale;       // [1]
  void* ln2;                // [N, D] out
  void* residual;           // [N, D] out
  float* mean;              // [N] out, or null: nothing is kept for backward
  float* variance;          // [N] out
  float* hidden;            // [N, r] out
} fastlift_adapter_forward_args;

typedef struct {
  int64_t tokens, width, rank;
  int32_t dtype, threads;
  float eps, ln_eps;
  const void* t;
  const void* d_ln2;        // [N, D] or null: zero
  const void* d_residual;   // [N, D]
  const float* mean;
  const float* variance;
  const float* hidden;
  const float* ln2_weight;  // [D]; read where d_ln2 and d_t are given
  const float* ln_weight;
  const float* ln_bias;
  const float* down_weight;
  const float* down_bias;
  const float* up_weight;
  const float* up_bias;
  const float* scale;
  void* d_t;                // [N, D] out, or null: not wanted
  float* d_ln_weight;       // [D] out
  float* d_ln_bias;         // [D] out
  float* d_down_weight;     // [r, D] out
  float* d_down_bias;       // [r] out
  float* d_up_weight;       // [D, r] out
  float* d_up_bias;         // [D] out
  float* d_scale;           // [1] out
} fastlift_adapter_backward_args;

// B rows of logits, C classes
typedef struct {
  int64_t rows, classes;
  int32_t threads, want_gradient;
  float smoothing, gradient_factor; // gradient_factor: 1 / (sum of the weights that count)
  float* logits;              // [B, C] raw products in; with want_gradient d(mean loss)/d(products) out
  const float* column_scale;  // [C] plain logit = product * column_scale + bias
  const float* bias;          // [C] or null
  const float* offset;        // [C] or null: tau * log prior, in the loss only
  const float* class_weight;  // [C] or null: ones
  const int64_t* labels;      // [B], FASTLIFT_IGNORED: left out
  float* losses;              // [B] out, weighted, not yet divided
  int64_t* predictions;       // [B] out
} fastlift_cross_entropy_args;

typedef struct {
  int64_t count;
  int32_t dtype, threads, kind, backward;
  const void* x;
  const void* d_y; // read where backward
  void* out;       // y, or d_x where backward
} fastlift_activation_args;

FASTLIFT_API int32_t fastlift_abi_version(void);
FASTLIFT_API const char* fastlift_isa(void);
FASTLIFT_API const char* fastlift_compiler(void);
FASTLIFT_API int32_t fastlift_openmp(void);
FASTLIFT_API int32_t fastlift_select_isa(const char* name); // 0, or -1 where the processor or the build lacks it
FASTLIFT_API void fastlift_poison_scratch(int32_t on);      // tests: scratch memory starts as NaN
FASTLIFT_API int32_t fastlift_adapter_forward(const fastlift_adapter_forward_args* args); // a fastlift_status, as all below
FASTLIFT_API int32_t fastlift_adapter_backward(const fastlift_adapter_backward_args* args);
FASTLIFT_API int32_t fastlift_cross_entropy(const fastlift_cross_entropy_args* args);
FASTLIFT_API int32_t fastlift_activation(const fastlift_activation_args* args);

#ifdef __cplusplus
}
#endif
