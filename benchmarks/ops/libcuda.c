// A CUDA driver in which every call succeeds and nothing happens: Triton's own binder and launcher run to the end on a
// machine without a GPU, so that the host's share of a launch can be measured there. See host.py.
#include <string.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

CUresult cuInit(unsigned flags) { return 0; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return 0; }
CUresult cuGetErrorString(CUresult error, const char **text) { *text = "pretended driver"; return 0; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return 0; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 227 * 1024; return 0; }
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
CUresult cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
CUresult cuCtxSetCurrent(void *context) { return 0; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return 0; }
CUresult cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
CUresult cuCtxSetLimit(int limit, size_t value) { return 0; }
CUresult cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
CUresult cuModuleUnload(void *module) { return 0; }
CUresult cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)1; return 0; }
CUresult cuFuncGetAttribute(int *value, int attribute, void *function) { *value = 1024; return 0; }
CUresult cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
CUresult cuFuncSetCacheConfig(void *function, int config) { return 0; }
CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr pointer) {
  memcpy(data, &pointer, sizeof pointer);
  return 0;
}
CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **data, CUdeviceptr pointer) {
  for (unsigned i = 0; i < count; i++) memcpy(data[i], &pointer, sizeof pointer);
  return 0;
}

// What a test asked to see of the next launches: the low 32 bits of so many parameters, which are whole numbers, floats,
// or enough of an address.
int pretended_wanted = 0;
unsigned pretended_parameters[64];

CUresult cuLaunchKernelEx(const void *config, void *function, void **parameters, void **extra) {
  for (int i = 0; i < pretended_wanted && i < 64; i++) memcpy(&pretended_parameters[i], parameters[i], 4);
  return 0;
}

CUresult cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *config) { *clusters = 1; return 0; }
CUresult cuTensorMapEncodeTiled(void) { return 0; }
CUresult cuTensorMapEncodeIm2col(void) { return 0; }
