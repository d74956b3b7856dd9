// The C entry points: choose the best instruction set once, look at the argument block and hand it on, and keep the scratch memory.
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <limits>

#include "arguments.h"
#include "isa.h"

namespace fastlift {

#define FASTLIFT_DECLARE(isa)                                              \
  int32_t adapter_forward_##isa(const fastlift_adapter_forward_args&);    \
  int32_t adapter_backward_##isa(const fastlift_adapter_backward_args&);  \
  int32_t cross_entropy_##isa(const fastlift_cross_entropy_args&);        \
  int32_t activation_##isa(const fastlift_activation_args&);              \
  static const Table table_##isa{#isa, adapter_forward_##isa, adapter_backward_##isa, cross_entropy_##isa, activation_##isa};

FASTLIFT_DECLARE(portable)
#if defined(FASTLIFT_X86)
FASTLIFT_DECLARE(avx2)
FASTLIFT_DECLARE(avx512)
#endif

namespace {

const Table* find(const char* name) {
  if (!strcmp(name, "portable")) return &table_portable;
#if defined(FASTLIFT_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!strcmp(name, "avx2") && avx2) return &table_avx2;
#if defined(FASTLIFT_EMULATE_AVX512)
  if (!strcmp(name, "avx512") && avx2) return &table_avx512;
#endif
  if (!strcmp(name, "avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return &table_avx512;
#endif
  return nullptr;
}

const Table* best() {
  for (const char* name : {"avx512", "avx2"})
    if (const Table* table = find(name)) return table;
  return &table_portable;
}

std::atomic<const Table*> chosen{nullptr};
std::atomic<bool> poison{false};

const Table& table() {
  const Table* now = chosen.load(std::memory_order_acquire);
  if (!now) {
    now = best();
    chosen.store(now, std::memory_order_release);
  }
  return *now;
}

struct Memory {
  float* p = nullptr;
  size_t floats = 0;
  ~Memory() { free(p); }
};
thread_local Memory memory[SLOTS];

} // namespace

float* scratch(Slot slot, size_t floats) {
  Memory& m = memory[slot];
  if (m.floats < floats) {
    free(m.p);
    const size_t size = (floats + 1023) / 1024 * 1024;
    m.p = static_cast<float*>(aligned_alloc(64, size * sizeof(float)));
    m.floats = m.p ? size : 0;
  }
  if (m.p && poison.load(std::memory_order_relaxed))
    for (size_t i = 0; i < m.floats; ++i) m.p[i] = std::numeric_limits<float>::quiet_NaN();
  return m.p;
}

} // namespace fastlift

extern "C" {
int32_t fastlift_abi_version(void) { return 1; }
const char* fastlift_isa(void) { return fastlift::table().name; }
const char* fastlift_compiler(void) { return __VERSION__; }
int32_t fastlift_openmp(void) {
#if defined(_OPENMP)
  return _OPENMP;
#else
  return 0;
#endif
}
int32_t fastlift_select_isa(const char* name) {
  const fastlift::Table* table = fastlift::find(name);
  if (!table) return -1;
  fastlift::chosen.store(table, std::memory_order_release);
  return 0;
}
void fastlift_poison_scratch(int32_t on) { fastlift::poison.store(on != 0); }
int32_t fastlift_adapter_forward(const fastlift_adapter_forward_args* a) {
  return fastlift::valid(*a) ? fastlift::table().adapter_forward(*a) : FASTLIFT_INVALID;
}
int32_t fastlift_adapter_backward(const fastlift_adapter_backward_args* a) {
  return fastlift::valid(*a) ? fastlift::table().adapter_backward(*a) : FASTLIFT_INVALID;
}
int32_t fastlift_cross_entropy(const fastlift_cross_entropy_args* a) {
  return fastlift::valid(*a) ? fastlift::table().cross_entropy(*a) : FASTLIFT_INVALID;
}
int32_t fastlift_activation(const fastlift_activation_args* a) {
  return fastlift::valid(*a) ? fastlift::table().activation(*a) : FASTLIFT_INVALID;
}
}
