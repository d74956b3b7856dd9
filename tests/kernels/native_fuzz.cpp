// The C entry points over shapes that are drawn, for one instruction set: native_fuzz avx2 [rounds [seed]]
// Every buffer has exactly its size and lies at any alignment its type allows, between guard bytes that are looked at
// afterwards and poisoned under the address sanitizer; outputs start as NaN and must end finite, the same in a second run,
// and close to those of the portable code. Argument blocks with one field spoilt must be refused.
// Exits with 77 (skipped) where the processor lacks the instruction set.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "interface.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace {

std::mt19937_64 random_bits;
int failures = 0;
char now[256]; // what is being tried

void fail(const char* what) {
  printf("FAILED %s: %s\n", now, what);
  ++failures;
}

int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }
bool coin() { return between(0, 1) == 1; }
int64_t one_of(std::initializer_list<int64_t> values) { return values.begin()[between(0, (int64_t)values.size() - 1)]; }

int32_t threads_of(bool portable) { // drawn either way, so that what follows is the same
  const int32_t threads = (int32_t)between(1, 3);
  return portable ? 1 : threads;
}

class Buffer { // `size` bytes between guards
  static constexpr size_t GUARD = 128, SHIFTS = 64;
  static constexpr unsigned char PATTERN = 0xA5;
  size_t size;
  std::unique_ptr<unsigned char, decltype(&free)> memory;
  unsigned char* begin;
  void guards(const std::function<void(unsigned char*, size_t)>& each) {
    each(memory.get(), (size_t)(begin - memory.get()));
    each(begin + size, GUARD);
  }

 public:
  Buffer(size_t bytes, size_t alignment)
      : size(bytes), memory((unsigned char*)aligned_alloc(64, (bytes + 2 * GUARD + SHIFTS + 63) / 64 * 64), &free),
        begin(memory.get() + GUARD + (size_t)between(0, (int64_t)(SHIFTS / alignment) - 1) * alignment) {
    memset(memory.get(), 0xFF, (bytes + 2 * GUARD + SHIFTS + 63) / 64 * 64); // NaN, in either dtype
    guards([](unsigned char* p, size_t n) {
      memset(p, PATTERN, n);
      ASAN_POISON_MEMORY_REGION(p, n);
    });
  }
  ~Buffer() {
    bool whole = true;
    guards([&](unsigned char* p, size_t n) {
      ASAN_UNPOISON_MEMORY_REGION(p, n);
      whole &= std::all_of(p, p + n, [](unsigned char c) { return c == PATTERN; });
    });
    if (!whole) fail("bytes outside a buffer were written");
  }
  Buffer(const Buffer&) = delete;
  void* data() { return begin; }
};

class Call { // the buffers of one call; outputs as float32 in the order in which they were asked for
  std::vector<std::unique_ptr<Buffer>> buffers;
  struct Output {
    void* p;
    int64_t count;
    int32_t dtype;
  };
  std::vector<Output> outputs;

 public:
  template <class T>
  T* raw(int64_t count) {
    buffers.push_back(std::make_unique<Buffer>((size_t)count * sizeof(T), alignof(T)));
    return (T*)buffers.back()->data();
  }
  float* normal(int64_t count, float by = 1.0f, float around = 0.0f) {
    float* p = raw<float>(count);
    std::normal_distribution<float> draw(around, by);
    for (int64_t i = 0; i < count; ++i) p[i] = draw(random_bits);
    return p;
  }
  void* input(int64_t count, int32_t dtype) {
    if (dtype == FASTLIFT_FLOAT32) return normal(count);
    uint16_t* p = raw<uint16_t>(count);
    std::normal_distribution<float> draw;
    for (int64_t i = 0; i < count; ++i) {
      const float x = draw(random_bits);
      memcpy(&p[i], (const char*)&x + 2, 2);
    }
    return p;
  }
  void* output(int64_t count, int32_t dtype) {
    void* p = dtype == FASTLIFT_FLOAT32 ? (void*)raw<float>(count) : raw<uint16_t>(count);
    outputs.push_back({p, count, dtype});
    return p;
  }
  float* output(int64_t count) { return (float*)output(count, FASTLIFT_FLOAT32); }
  std::vector<std::vector<float>> results() const {
    std::vector<std::vector<float>> all;
    for (const Output& o : outputs) {
      std::vector<float> x((size_t)o.count);
      for (int64_t i = 0; i < o.count; ++i) {
        const uint32_t wide = o.dtype == FASTLIFT_FLOAT32 ? 0 : (uint32_t)((const uint16_t*)o.p)[i] << 16;
        if (o.dtype == FASTLIFT_FLOAT32) x[(size_t)i] = ((const float*)o.p)[i];
        else memcpy(&x[(size_t)i], &wide, 4);
      }
      all.push_back(std::move(x));
    }
    return all;
  }
};

void expect_finite(const std::vector<std::vector<float>>& results) {
  for (const auto& x : results)
    for (float v : x)
      if (!(fabsf(v) < 1e30f)) return fail("a result is not finite, or was not written");
}

// All results bit by bit with tolerance 0; with one, the first `count`, relative to the largest element.
void expect_equal(const char* what, const std::vector<std::vector<float>>& one, const std::vector<std::vector<float>>& two,
                  size_t count, float tolerance) {
  for (size_t k = 0; k < std::min(count, one.size()); ++k) {
    float largest = 0.0f, apart = 0.0f;
    for (size_t i = 0; i < one[k].size(); ++i) {
      largest = std::max(largest, fabsf(one[k][i]));
      apart = std::max(apart, fabsf(one[k][i] - two[k][i]));
    }
    if (!(apart <= tolerance * largest)) fail(what);
  }
}

// Runs `attempt` (which draws its call from the same random numbers each time) thrice: twice as asked, once in portable code.
void compare(const char* isa, size_t smooth, float tolerance,
             const std::function<std::vector<std::vector<float>>(bool portable)>& attempt) {
  const std::mt19937_64 start = random_bits;
  const auto first = attempt(false);
  random_bits = start;
  const auto again = attempt(false);
  random_bits = start;
  fastlift_select_isa("portable");
  const auto portable = attempt(true);
  fastlift_select_isa(isa);
  expect_finite(first);
  expect_equal("a second run differs", first, again, first.size(), 0.0f);
  expect_equal("portable code differs", first, portable, smooth, tolerance);
}

template <class Args>
void expect_refused(int32_t (*call)(const Args*), Args args, const std::function<void(Args&)>& spoil) {
  spoil(args);
  if (call(&args) != FASTLIFT_INVALID) fail("spoilt arguments were not refused");
}

std::vector<std::vector<float>> adapter(bool portable) {
  const int64_t width = 8 * one_of({1, 2, 3, between(1, 48), 96}), rank = one_of({1, 2, between(1, 80), 512});
  const int64_t most = std::max<int64_t>(1, 3000000 / (width * rank));
  const int64_t tokens = std::min(most, one_of({1, 2, between(1, 30), between(90, 110)}));
  const int32_t dtype = (int32_t)between(0, 1), threads = threads_of(portable);
  const bool ln2 = coin(), keep = coin(), need_t = coin(), two_epsilons = coin();
  snprintf(now, sizeof now, "adapter tokens=%lld width=%lld rank=%lld dtype=%d threads=%d ln2=%d keep=%d need_t=%d",
           (long long)tokens, (long long)width, (long long)rank, dtype, threads, ln2, keep, need_t);
  Call call;
  fastlift_adapter_forward_args f{};
  f.tokens = tokens, f.width = width, f.rank = rank, f.dtype = dtype, f.threads = threads;
  f.eps = 1e-5f, f.ln_eps = two_epsilons ? 0.1f : 1e-5f;
  f.t = call.input(tokens * width, dtype);
  if (ln2) f.ln2_weight = call.normal(width, 0.2f, 1.0f), f.ln2_bias = call.normal(width);
  f.ln_weight = call.normal(width, 0.2f, 1.0f), f.ln_bias = call.normal(width);
  f.down_weight = call.normal(rank * width, 0.1f), f.down_bias = call.normal(rank);
  f.up_weight = call.normal(width * rank, 0.1f), f.up_bias = call.normal(width), f.scale = call.normal(1, 0.1f, 1.0f);
  f.residual = call.output(tokens * width, dtype);
  if (ln2) f.ln2 = call.output(tokens * width, dtype);
  if (keep) f.mean = call.output(tokens), f.variance = call.output(tokens), f.hidden = call.output(tokens * rank);
  if (fastlift_adapter_forward(&f) != FASTLIFT_DONE) fail("forward failed");
  using F = fastlift_adapter_forward_args;
  for (const std::function<void(F&)>& spoil : std::initializer_list<std::function<void(F&)>>{
           [](F& a) { a.rank = one_of({0, -1, 513, 1000000000000, INT64_MAX}); },
           [](F& a) { a.width = one_of({0, -8, 12, INT64_MAX, INT64_MAX - 7}); },
           [](F& a) { a.tokens = one_of({-1, INT64_MIN, INT64_MAX, INT64_C(1) << 40}); },
           [](F& a) { a.dtype = 2; }, [](F& a) { a.threads = (int32_t)one_of({0, -1, INT32_MAX}); },
           [](F& a) { a.t = nullptr; }, [](F& a) { a.scale = nullptr; }, [](F& a) { a.residual = nullptr; },
           [](F& a) { a.ln2_weight = a.ln_weight, a.ln2_bias = nullptr; },
           [](F& a) { a.mean = (float*)a.residual, a.hidden = nullptr; }})
    expect_refused<F>(fastlift_adapter_forward, f, spoil);
  if (!keep) return call.results();

  fastlift_adapter_backward_args b{};
  b.tokens = tokens, b.width = width, b.rank = rank, b.dtype = dtype, b.threads = threads, b.eps = f.eps, b.ln_eps = f.ln_eps;
  b.t = f.t, b.mean = f.mean, b.variance = f.variance, b.hidden = f.hidden;
  b.d_residual = call.input(tokens * width, dtype);
  if (ln2) b.d_ln2 = call.input(tokens * width, dtype), b.ln2_weight = f.ln2_weight;
  b.ln_weight = f.ln_weight, b.ln_bias = f.ln_bias, b.down_weight = f.down_weight, b.down_bias = f.down_bias;
  b.up_weight = f.up_weight, b.up_bias = f.up_bias, b.scale = f.scale;
  if (need_t) b.d_t = call.output(tokens * width, dtype);
  b.d_ln_weight = call.output(width), b.d_ln_bias = call.output(width);
  b.d_down_weight = call.output(rank * width), b.d_down_bias = call.output(rank);
  b.d_up_weight = call.output(width * rank), b.d_up_bias = call.output(width), b.d_scale = call.output(1);
  if (fastlift_adapter_backward(&b) != FASTLIFT_DONE) fail("backward failed");
  using B = fastlift_adapter_backward_args;
  for (const std::function<void(B&)>& spoil : std::initializer_list<std::function<void(B&)>>{
           [](B& a) { a.rank = one_of({0, 513, 1000000000000}); }, [](B& a) { a.hidden = nullptr; },
           [](B& a) { a.d_t = (void*)a.t, a.d_ln2 = a.t, a.ln2_weight = nullptr; }, [](B& a) { a.d_scale = nullptr; }})
    expect_refused<B>(fastlift_adapter_backward, b, spoil);
  return call.results();
}

std::vector<std::vector<float>> cross_entropy(bool portable) {
  const int64_t rows = one_of({1, 2, between(1, 40)}), classes = one_of({1, 2, 3, between(1, 40), between(900, 1100)});
  const int32_t threads = threads_of(portable);
  const float smoothing = coin() ? 0.1f : 0.0f;
  Call call;
  fastlift_cross_entropy_args a{};
  a.rows = rows, a.classes = classes, a.threads = threads, a.smoothing = smoothing, a.gradient_factor = 0.1f;
  a.want_gradient = coin();
  const bool bias = coin(), offset = coin(), weighted = coin();
  snprintf(now, sizeof now, "cross-entropy rows=%lld classes=%lld threads=%d smoothing=%g gradient=%d", (long long)rows,
           (long long)classes, threads, smoothing, a.want_gradient);
  a.losses = call.output(rows);
  a.logits = call.normal(rows * classes), a.column_scale = call.normal(classes, 0.5f, 3.0f);
  if (bias) a.bias = call.normal(classes);
  if (offset) a.offset = call.normal(classes);
  if (weighted) a.class_weight = call.normal(classes, 0.01f, 1.0f);
  int64_t* labels = call.raw<int64_t>(rows);
  for (int64_t i = 0; i < rows; ++i) labels[i] = between(0, 4) ? between(0, classes - 1) : (int64_t)FASTLIFT_IGNORED;
  a.labels = labels, a.predictions = call.raw<int64_t>(rows);
  using A = fastlift_cross_entropy_args;
  const int64_t own = labels[0];
  for (int64_t wrong : {classes, INT64_C(-1), INT64_C(-99), INT64_MIN, INT64_MAX}) {
    labels[0] = wrong;
    expect_refused<A>(fastlift_cross_entropy, a, [](A&) {});
  }
  labels[0] = own;
  for (const std::function<void(A&)>& spoil : std::initializer_list<std::function<void(A&)>>{
           [](A& x) { x.classes = one_of({0, -1, INT64_MAX}); }, [](A& x) { x.rows = one_of({-1, INT64_MAX}); },
           [](A& x) { x.logits = nullptr; }, [](A& x) { x.labels = nullptr; }, [](A& x) { x.threads = 0; }})
    expect_refused<A>(fastlift_cross_entropy, a, spoil);
  if (fastlift_cross_entropy(&a) != FASTLIFT_DONE) fail("failed");
  for (int64_t i = 0; i < rows; ++i)
    if (a.predictions[i] < 0 || a.predictions[i] >= classes) fail("a prediction is no class");
  auto results = call.results();
  if (a.want_gradient) results.emplace_back(a.logits, a.logits + rows * classes);
  return results;
}

std::vector<std::vector<float>> activation(bool portable) {
  const int64_t count = one_of({1, between(1, 70), between(1, 20000)});
  const int32_t dtype = (int32_t)between(0, 1), threads = threads_of(portable);
  Call call;
  fastlift_activation_args a{};
  a.count = count, a.dtype = dtype, a.threads = threads, a.kind = (int32_t)between(0, 1), a.backward = coin();
  snprintf(now, sizeof now, "activation count=%lld dtype=%d threads=%d kind=%d backward=%d", (long long)count, dtype, threads,
           a.kind, a.backward);
  a.x = call.input(count, dtype);
  if (a.backward) a.d_y = call.input(count, dtype);
  a.out = call.output(count, dtype);
  if (fastlift_activation(&a) != FASTLIFT_DONE) fail("failed");
  using A = fastlift_activation_args;
  for (const std::function<void(A&)>& spoil : std::initializer_list<std::function<void(A&)>>{
           [](A& x) { x.count = one_of({-1, INT64_MAX}); }, [](A& x) { x.kind = 2; }, [](A& x) { x.dtype = -1; },
           [](A& x) { x.x = nullptr; }, [](A& x) { x.backward = 1, x.d_y = nullptr; }})
    expect_refused<A>(fastlift_activation, a, spoil);
  return call.results();
}

} // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 4) return 2;
  const char* isa = arguments[1];
  if (fastlift_select_isa(isa) != 0) return 77;
  const int rounds = count > 2 ? atoi(arguments[2]) : 20;
  const uint64_t seed = count > 3 ? strtoull(arguments[3], nullptr, 10) : 0;
  fastlift_poison_scratch(1);
  for (int i = 0; i < rounds && !failures; ++i) {
    random_bits.seed(seed + (uint64_t)i);
    // A bfloat16 result may round the other way: one part in 2^7.
    compare(isa, 2, 0.01f, adapter);
    compare(isa, 2, 0.001f, cross_entropy);
    compare(isa, 1, 0.01f, activation);
    if (failures) printf("again: native_fuzz %s 1 %llu\n", isa, (unsigned long long)(seed + (uint64_t)i));
  }
  if (failures) printf("%d failures\n", failures);
  else printf("%s: all %d rounds passed\n", isa, rounds);
  return failures ? 1 : 0;
}
