// What the CUDA kernels share: element types, 16-byte copies, launches, sums of parts in a fixed order.
//
// No torch headers: a kernel sees raw pointers. tests/cuda_on_cpu.h stands in for CUDA where a C++ compiler alone is to
// run the kernels.
#pragma once

#ifdef GANFORMER_CUDA_ON_CPU
#include "cuda_on_cpu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <stdint.h>
#include <string.h>

#include "cuda_launchers.h"

namespace ganformer {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
__host__ __device__ constexpr int64_t round_up(int64_t a, int64_t to) {
  return ceil_div(a, to) * to;
}
template <class N>
__host__ __device__ constexpr N smaller(N a, N b) {
  return b < a ? b : a;
}
template <class N>
__host__ __device__ constexpr N larger(N a, N b) {
  return a < b ? b : a;
}

// ---------------------------------------------------------------------------------------------- launches

#ifndef GANFORMER_CUDA_ON_CPU

// Starts a kernel; what CUDA says, 0 if it started.
template <class... Parameters, class... Arguments>
int launch(
    void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared, void* stream, Arguments... arguments) {
  if (blocks > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  if (shared > 48 * 1024) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (status != cudaSuccess) {
      return status;
    }
  }
  kernel<<<static_cast<unsigned>(blocks), threads, static_cast<size_t>(shared), static_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

// Bytes of shared memory: what one block may have at most, and what all blocks of a multiprocessor have together.
struct SharedMemory {
  int64_t a_block, all;
};

inline SharedMemory shared_memory() {
  int device = 0, a_block = 0, all = 0;
  // A block loses 1 KB to the system. Where the driver does not answer, what every GPU has.
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&a_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) != cudaSuccess) {
    return {48 * 1024, 48 * 1024};
  }
  return {a_block, all};
}

// The dynamic shared memory of a kernel, aligned to 16 bytes.
#define GANFORMER_SHARED(name)         \
  extern __shared__ uint4 name##_all[]; \
  unsigned char* const name = reinterpret_cast<unsigned char*>(name##_all)

#endif  // GANFORMER_CUDA_ON_CPU

// ---------------------------------------------------------------------------------------------- element types

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(BFloat16 value) {
  return __bfloat162float(value);
}
__device__ __forceinline__ float to_float(Float16 value) {
  return __half2float(value);
}

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ Float16 from_float<Float16>(float value) {
  return __float2half_rn(value);
}

// The unsigned type of so many bytes: one instruction moves it.
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// kCount neighbours, aligned to their size together or to 16 bytes, which is as much as is moved at a time.
template <class T, int kCount>
__device__ __forceinline__ void load_pack(const T* from, float (&to)[kCount]) {
  constexpr int kAtOnce = kCount * sizeof(T) > 16 ? 16 / sizeof(T) : kCount;
  using Moved = typename Word<kAtOnce * sizeof(T)>::type;
#pragma unroll
  for (int i = 0; i < kCount; i += kAtOnce) {
    const Moved moved = *reinterpret_cast<const Moved*>(from + i);
    T values[kAtOnce];
    memcpy(values, &moved, sizeof moved);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      to[i + k] = to_float(values[k]);
    }
  }
}

template <class T, int kCount>
__device__ __forceinline__ typename Word<kCount * sizeof(T)>::type word_of(const float* from) {
  T values[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    values[k] = from_float<T>(from[k]);
  }
  typename Word<kCount * sizeof(T)>::type word;
  memcpy(&word, values, sizeof word);
  return word;
}

template <class T, int kCount>
__device__ __forceinline__ void store_pack(T* to, const float (&from)[kCount]) {
  constexpr int kAtOnce = kCount * sizeof(T) > 16 ? 16 / sizeof(T) : kCount;
#pragma unroll
  for (int i = 0; i < kCount; i += kAtOnce) {
    *reinterpret_cast<typename Word<kAtOnce * sizeof(T)>::type*>(to + i) = word_of<T, kAtOnce>(from + i);
  }
}

// Elements of T in 16 bytes.
template <class T>
constexpr int kPack = 16 / sizeof(T);

inline bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls run(T{}) with the element type that a code of cuda_launchers.h stands for.
template <class Run>
int dispatch(int code, const Run& run) {
  switch (code) {
    case kFloat32:
      return run(float{});
    case kBFloat16:
      return run(BFloat16{});
    default:
      return run(Float16{});
  }
}

// ---------------------------------------------------------------------------------------------- copies

// 16 bytes from global to shared memory, both aligned to 16; there after copies_done() and __syncthreads().
__device__ __forceinline__ void copy16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

__device__ __forceinline__ void copies_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// ---------------------------------------------------------------------------------------------- sums

__device__ __forceinline__ float warp_sum(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

// Partial sums that lie `part_stride` apart, each of `rows` rows of `width` numbers, `row_stride` apart.
struct Parts {
  const float* data;
  int64_t count;  // parts that go into one sum
  int64_t part_stride, rows, width, row_stride;
};

// out[o][row][column] = Σ over i < count of part o · count + i: always in the same order.
__global__ void __launch_bounds__(kThreads) sum_parts(Parts parts, int64_t total, float* out) {
  __shared__ float sums[kWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (i < total) {
    const int64_t column = i % parts.width, row = i / parts.width % parts.rows, o = i / parts.width / parts.rows;
    const float* from = parts.data + o * parts.count * parts.part_stride + row * parts.row_stride + column;
#pragma unroll 8
    for (int64_t part = warp; part < parts.count; part += kWarps) {
      sum += from[part * parts.part_stride];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && i < total) {
    for (int w = 1; w < kWarps; ++w) {
      sum += sums[w][lane];
    }
    out[i] = sum;
  }
}

// outer: results of rows · width numbers each.
inline int launch_sum_parts(const Parts& parts, int64_t outer, float* out, void* stream) {
  const int64_t total = outer * parts.rows * parts.width;
  if (total == 0) {
    return 0;
  }
  return launch(sum_parts, ceil_div(total, kWarp), kThreads, 0, stream, parts, total, out);
}

// ---------------------------------------------------------------------------------------------- workspaces

// Hands out pieces of a workspace; without one it only counts.
struct Workspace {
  float* base;
  int64_t used = 0;

  float* take(int64_t numbers) {
    float* piece = base == nullptr ? nullptr : base + used;
    used += round_up(numbers, 64);
    return piece;
  }
};

}  // namespace
}  // namespace ganformer
