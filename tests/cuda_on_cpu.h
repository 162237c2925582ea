// Runs CUDA kernels on a CPU, for tests where there is no GPU: include it in place of CUDA's headers.
//
// What a kernel computes, and whether it waits where it must, not how fast. Blocks run one after the other. The threads
// of a block are fibers that run, each in its turn, from one barrier to the next; `ganformer_emulator.order` says in
// which order, so that a missing barrier shows as a result that depends on it. With GANFORMER_THREADS they are real
// threads, for the thread sanitizer. Shared memory is as large as asked for and not a byte more, with garbage in it.
// Compiled with -fsanitize=alignment, an access that is not aligned as a GPU needs it is an error of the launch.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#ifdef GANFORMER_THREADS
#include <pthread.h>

#include <thread>
#else
#include <setjmp.h>
#include <ucontext.h>
#endif

// ---------------------------------------------------------------------------------------------- words of the language

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---------------------------------------------------------------------------------------------- the machine

// One for all libraries' kernels; tests set the first three.
struct Emulator {
  int64_t shared_a_block = 227 * 1024, shared_all = 228 * 1024;
  int order = 0;  // of the threads between two barriers: 0 forwards, 1 backwards, 2 the odd ones first
  bool stuck = false, misaligned = false;
  unsigned threads = 0;
  unsigned char* shared = nullptr;
  uint64_t lanes[64][32];  // what the threads of each warp show one another
#ifdef GANFORMER_THREADS
  pthread_barrier_t barrier, warps[64];
#else
  // Switching by jumps: swapcontext would call the system each time.
  struct Fiber {
    ucontext_t context;
    jmp_buf at;
    std::vector<unsigned char> stack;
    bool started = false, done = false;
    int waits = 0;  // 1 for the block, 2 for its warp
  };
  std::vector<std::unique_ptr<Fiber>> fibers;
  jmp_buf scheduler;
  unsigned current = 0;
  std::function<void()> body;
#endif
};
inline Emulator ganformer_emulator;

#ifdef GANFORMER_THREADS
inline thread_local Dim3 threadIdx, blockIdx;
#else
inline Dim3 threadIdx, blockIdx;
#endif
inline Dim3 gridDim, blockDim;

#ifdef GANFORMER_THREADS

inline void __syncthreads() {
  pthread_barrier_wait(&ganformer_emulator.barrier);
}
inline void __syncwarp(unsigned = ~0u) {
  pthread_barrier_wait(&ganformer_emulator.warps[threadIdx.x / 32]);
}

template <class Body>
void run_block(unsigned block, const Body& body) {
  Emulator& e = ganformer_emulator;
  pthread_barrier_init(&e.barrier, nullptr, e.threads);
  for (unsigned w = 0; w < e.threads / 32; ++w) {
    pthread_barrier_init(&e.warps[w], nullptr, 32);
  }
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < e.threads; ++t) {
    threads.emplace_back([&body, block, t] {
      threadIdx.x = t;
      blockIdx.x = block;
      body();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

#else

inline void back_to_scheduler(Emulator::Fiber& fiber) {
  if (_setjmp(fiber.at) == 0) {
    _longjmp(ganformer_emulator.scheduler, 1);
  }
}
inline void wait_for(int what) {
  Emulator& e = ganformer_emulator;
  e.fibers[e.current]->waits = what;
  back_to_scheduler(*e.fibers[e.current]);
}
inline void __syncthreads() {
  wait_for(1);
}
inline void __syncwarp(unsigned = ~0u) {
  wait_for(2);
}

// A fiber runs the thread of one block after the other.
inline void run_fiber() {
  Emulator::Fiber& fiber = *ganformer_emulator.fibers[ganformer_emulator.current];
  for (;;) {
    ganformer_emulator.body();
    fiber.done = true;
    back_to_scheduler(fiber);
  }
}

inline void resume(Emulator::Fiber& fiber) {
  if (_setjmp(ganformer_emulator.scheduler) == 0) {
    if (fiber.started) {
      _longjmp(fiber.at, 1);
    }
    fiber.started = true;
    setcontext(&fiber.context);
  }
}

template <class Body>
void run_block(unsigned block, const Body& body) {
  Emulator& e = ganformer_emulator;
  const unsigned count = e.threads;
  e.body = body;
  blockIdx.x = block;
  while (e.fibers.size() < count) {
    e.fibers.push_back(std::make_unique<Emulator::Fiber>());
    Emulator::Fiber& fiber = *e.fibers.back();
    fiber.stack.resize(64 * 1024);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (unsigned t = 0; t < count; ++t) {
    e.fibers[t]->done = false;
    e.fibers[t]->waits = 0;
  }
  for (;;) {
    for (unsigned i = 0; i < count; ++i) {
      const unsigned half = (count + 1) / 2;
      const unsigned t =
          e.order == 0 ? i : e.order == 1 ? count - 1 - i : i < count / 2 ? 2 * i + 1 : 2 * (i - half + count % 2);
      if (!e.fibers[t]->done && e.fibers[t]->waits == 0) {
        e.current = t;
        threadIdx.x = t;
        resume(*e.fibers[t]);
      }
    }
    const auto all = [&](unsigned from, unsigned to, const auto& test) {
      return std::all_of(e.fibers.begin() + from, e.fibers.begin() + to, test);
    };
    if (all(0, count, [](const auto& fiber) { return fiber->done; })) {
      return;
    }
    bool moved = false;
    for (unsigned w = 0; w < count; w += 32) {
      const unsigned end = std::min(w + 32, count);
      if (all(w, end, [](const auto& fiber) { return !fiber->done && fiber->waits == 2; })) {
        std::for_each(e.fibers.begin() + w, e.fibers.begin() + end, [](const auto& fiber) { fiber->waits = 0; });
        moved = true;
      }
    }
    // Threads that left already do not come to a barrier: stricter than the hardware, and what CUDA's guide asks for.
    if (!moved && all(0, count, [](const auto& fiber) { return !fiber->done && fiber->waits == 1; })) {
      std::for_each(e.fibers.begin(), e.fibers.begin() + count, [](const auto& fiber) { fiber->waits = 0; });
      moved = true;
    }
    if (!moved) {
      e.stuck = true;
      e.fibers.clear();
      return;
    }
  }
}

#endif

namespace ganformer {
namespace {

struct SharedMemory {
  int64_t a_block, all;
};

inline SharedMemory shared_memory() {
  return {ganformer_emulator.shared_a_block, ganformer_emulator.shared_all};
}

constexpr int kGuard = 64;  // bytes behind the shared memory that nobody may touch

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared, void*, Arguments... arguments) {
  Emulator& e = ganformer_emulator;
  if (blocks <= 0 || blocks > INT32_MAX || threads % 32 != 0 || threads > 1024 || shared > e.shared_a_block) {
    return 1;
  }
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = e.threads = static_cast<unsigned>(threads);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, static_cast<size_t>(shared) + kGuard) != 0) {
    return 2;
  }
  e.shared = static_cast<unsigned char*>(memory);
  e.stuck = e.misaligned = false;
  bool overrun = false;
  for (unsigned block = 0; block < gridDim.x && !e.stuck && !overrun; ++block) {
    std::memset(memory, 0xff, static_cast<size_t>(shared) + kGuard);  // NaN, whatever the type
    run_block(block, [&] { kernel(static_cast<Parameters>(arguments)...); });
    const unsigned char* guard = e.shared + shared;
    overrun = !std::all_of(guard, guard + kGuard, [](unsigned char byte) { return byte == 0xff; });
  }
  std::free(memory);
  return e.stuck ? 719 : overrun ? 700 : e.misaligned ? 716 : 0;
}

#define GANFORMER_SHARED(name) unsigned char* const name = ganformer_emulator.shared

}  // namespace
}  // namespace ganformer

inline const char* cudaGetErrorString(int status) {
  return status == 719 ? "a barrier that some threads do not reach"
      : status == 716  ? "a misaligned address"
      : status == 700  ? "shared memory overrun"
                       : "a launch that no GPU could do";
}
using cudaError_t = int;

// What the compiler calls where an address is not aligned.
extern "C" inline __attribute__((used)) void __ubsan_handle_type_mismatch_v1(void*, void*) {
  ganformer_emulator.misaligned = true;
}

extern "C" inline __attribute__((used)) void ganformer_emulate(int64_t shared_a_block, int64_t shared_all, int order) {
  ganformer_emulator.shared_a_block = shared_a_block;
  ganformer_emulator.shared_all = shared_all;
  ganformer_emulator.order = order;
}

// ---------------------------------------------------------------------------------------------- warps

template <class T>
T exchange(T value, unsigned from) {
  uint64_t(&lanes)[32] = ganformer_emulator.lanes[threadIdx.x / 32];
  std::memcpy(&lanes[threadIdx.x % 32], &value, sizeof value);
  __syncwarp();
  T result;
  std::memcpy(&result, &lanes[from], sizeof result);
  __syncwarp();
  return result;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return exchange(value, (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return exchange(value, lane + delta < 32 ? lane + delta : lane);
}

// ---------------------------------------------------------------------------------------------- numbers

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <class T>
void __stwb(T* pointer, T value) {
  *pointer = value;
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(value != value ? 0x7fffu : rounded)};
}

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  const float size = exponent == 31 ? (mantissa ? std::numeric_limits<float>::quiet_NaN() : INFINITY)
      : exponent == 0               ? std::ldexp(static_cast<float>(mantissa), -24)
                                    : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return value.bits >> 15 ? -size : size;
}
inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (!(size < 65520)) {
    return {static_cast<uint16_t>(sign | (size != size ? 0x7fff : 0x7c00))};
  }
  // The distance between neighbours at this size; nearbyint rounds to even.
  const int exponent = std::max(size == 0 ? -14 : std::ilogb(size), -14);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  // A carry out of the mantissa counts the exponent up, as it should.
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + steps))};
}
