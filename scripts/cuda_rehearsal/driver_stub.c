/* What stands in for NVIDIA's libcuda.so.1 and libnvidia-ml.so.1 on a machine without a GPU.

   NVML answers that there are REHEARSAL_GPUS Hoppers (1 by default): that is all that vLLM asks of it. CUDA itself answers that
   it has no device, and writes down which process asked: a process that has asked cannot be copied for an engine any more.
   The other names are those that vLLM's libraries want to find when they are loaded; nobody calls them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_DEVICE 100
#define UNUSED(name) int name(void) { return NO_DEVICE; }

static int started(void) {
    const char *folder = getenv("REHEARSAL_FOLDER");
    if (folder) {
        char path[4096];
        snprintf(path, sizeof path, "%s/cuda-started", folder);
        FILE *file = fopen(path, "a");
        if (file) {
            fprintf(file, "%d\n", (int)getpid());
            fclose(file);
        }
    }
    return NO_DEVICE;
}

int cuInit(unsigned flags) { (void)flags; return started(); }
int cuGetProcAddress_v2(void) { return started(); } /* what CUDA's runtime asks first */

int cuGetErrorString(int error, const char **text) {
    (void)error;
    *text = "stub driver";
    return 0;
}

UNUSED(cuCtxGetCurrent) UNUSED(cuCtxGetDevice) UNUSED(cuCtxGetLimit) UNUSED(cuCtxSetCurrent) UNUSED(cuCtxSetLimit)
UNUSED(cuCtxSynchronize)
UNUSED(cuDeviceGet) UNUSED(cuDeviceGetAttribute) UNUSED(cuDeviceGetCount) UNUSED(cuDevicePrimaryCtxRelease)
UNUSED(cuDevicePrimaryCtxRetain) UNUSED(cuDriverGetVersion) UNUSED(cuFuncGetAttribute) UNUSED(cuFuncSetAttribute)
UNUSED(cuFuncSetCacheConfig) UNUSED(cuGetErrorName) UNUSED(cuLaunchKernel)
UNUSED(cuLaunchKernelEx) UNUSED(cuMemAddressFree) UNUSED(cuMemAddressReserve) UNUSED(cuMemCreate)
UNUSED(cuMemGetAllocationGranularity) UNUSED(cuMemMap) UNUSED(cuMemRelease) UNUSED(cuMemSetAccess) UNUSED(cuMemUnmap)
UNUSED(cuModuleGetFunction) UNUSED(cuModuleLoadData) UNUSED(cuModuleUnload)
UNUSED(cuOccupancyMaxActiveBlocksPerMultiprocessor) UNUSED(cuOccupancyMaxActiveClusters) UNUSED(cuPointerGetAttribute)
UNUSED(cuStreamSynchronize) UNUSED(cuTensorMapEncodeTiled)

/* NVML. A handle is the GPU's number plus one. */

int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { (void)error; return "stub driver"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    const char *gpus = getenv("REHEARSAL_GPUS");
    *count = gpus ? (unsigned)atoi(gpus) : 1;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(size_t)(index + 1);
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    (void)handle;
    *major = 9;
    *minor = 0;
    return 0;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    (void)handle;
    snprintf(name, length, "stub Hopper");
    return 0;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-00000000-0000-0000-0000-%012zu", (size_t)handle);
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long memory[3]) {
    (void)handle;
    memory[0] = memory[1] = 80ull << 30; /* total, free, used */
    memory[2] = 0;
    return 0;
}
