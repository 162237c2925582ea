// Errors do not leave the library as C++ exceptions: torch may come from another compiler (Microsoft's on Windows), which
// cannot catch ours, and the process would end. A kernel that fails returns undefined tensors, which Python sees as
// None, and leaves a message that ganformer_take_error() gives.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <type_traits>

#if defined(_WIN32)
#define GANFORMER_EXPORT extern "C" __declspec(dllexport)
#else
#define GANFORMER_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace ganformer {

// Plain arrays: thread-local objects with destructors are a burden when a library is unloaded.
struct LastError {
  char waiting[2048] = "";
  char taken[2048] = "";

  void set(const char* message) {
    std::snprintf(waiting, sizeof waiting, "%s", message);
  }
  // The message, once; it lasts until the next is taken.
  const char* take() {
    std::memcpy(taken, waiting, sizeof taken);
    waiting[0] = 0;
    return taken;
  }
};

inline LastError& last_error() {
  static thread_local LastError error;
  return error;
}

// TORCH_BOX(function), which lets no exception out.
template <class Function, Function* function>
void guarded(StableIValue* stack, uint64_t inputs, uint64_t outputs) noexcept {
  try {
    torch::stable::detail::boxer<Function, function>::boxed_fn(stack, inputs, outputs);
    return;
  } catch (const std::exception& error) {
    last_error().set(error.what());
  } catch (...) {
    last_error().set("an unknown error");
  }
  for (uint64_t i = 0; i < outputs; ++i) {
    AtenTensorHandle nothing = nullptr;
    aoti_torch_new_uninitialized_tensor(&nothing);
    stack[i] = torch::stable::detail::from(nothing);
  }
}

#define GANFORMER_BOX(function) \
  ::ganformer::guarded<std::remove_pointer_t<std::remove_reference_t<decltype(function)>>, (function)>

// torch's parallel_for calls `run` from its own threads and frames, so that an exception must not pass through them:
// the first one is kept, and thrown again here.
template <class Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  std::exception_ptr first;
  std::mutex mutex;
  torch::stable::parallel_for(begin, end, grain, [&](int64_t from, int64_t to) noexcept {
    try {
      run(from, to);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!first) {
        first = std::current_exception();
      }
    }
  });
  if (first) {
    std::rethrow_exception(first);
  }
}

}  // namespace ganformer
