// The CUDA words of kernels/*.cu for g++: every CUDA thread is a fiber of its own (ucontext), blocks run one after another.
// __syncthreads and shuffles are real meetings of fibers, in an order of threads that the caller chooses; shared memory
// is poisoned before each block, so that what nobody wrote is no lucky zero. It shows no timing, no coalescing, and no race
// that needs two threads at the same instant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cmath>
#include <cstring>
#include <algorithm>

using std::max;
using std::min;

#define __device__
#define __global__
#define __launch_bounds__(...)
// All of it in one section, whose bounds the linker names: that is what gets poisoned.
#define __shared__ static __attribute__((section("cuda_shared")))

struct Dim {
    unsigned int x, y, z;
};
extern Dim threadIdx, blockIdx;

namespace on_cpu {
// Returns when all threads of the block, or all lanes of the warp, that have not ended have come here.
void meet_block();
void meet_warp();
// The lane's slot for a value that crosses the warp.
uint32_t& slot_of(int lane);
void next_exchange();
}  // namespace on_cpu

inline void __syncthreads() { on_cpu::meet_block(); }

inline unsigned int __shfl_down_sync(unsigned int, unsigned int value, int step) {
    const int lane = threadIdx.x % 32;
    on_cpu::slot_of(lane) = value;
    on_cpu::meet_warp();
    const unsigned int got = lane + step < 32 ? on_cpu::slot_of(lane + step) : value;
    on_cpu::next_exchange();
    return got;
}

template <class T>
T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int __float2int_rn(float value) { return static_cast<int>(std::lrintf(value)); }
