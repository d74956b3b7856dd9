// One table of functions an instruction set; the sources that include vec.h are compiled once for each.
#pragma once
#include <stddef.h>
#include "interface.h"

namespace fastlift {

struct Table {
  const char* name;
  int32_t (*adapter_forward)(const fastlift_adapter_forward_args&);
  int32_t (*adapter_backward)(const fastlift_adapter_backward_args&);
  int32_t (*cross_entropy)(const fastlift_cross_entropy_args&);
  int32_t (*activation)(const fastlift_activation_args&);
};

// 64-byte aligned memory that each thread keeps between calls, by slot; null when memory runs out.
enum Slot { SHARED_SLOT, TILE_SLOT, SLOTS };
float* scratch(Slot slot, size_t floats);

} // namespace fastlift
