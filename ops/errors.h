// Errors do not leave the library as C++ exceptions: torch may come from another compiler (Microsoft's on Windows), which
// cannot catch ours, and the process would end. A kernel that fails returns a message in place of its result: bytes, which
// no result of ours is made of. native.py turns it into an error.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <type_traits>

namespace ganformer {

// The message as a tensor of bytes on the CPU; an undefined tensor where there is no memory even for that.
inline StableIValue message_of(const char* text) noexcept {
  try {
    const int64_t size = static_cast<int64_t>(std::min<size_t>(std::strlen(text), 4096));
    const torch::stable::Tensor bytes =
        torch::stable::empty({std::max<int64_t>(size, 1)}, torch::headeronly::ScalarType::Byte);
    auto* to = static_cast<char*>(bytes.data_ptr());
    to[0] = '?';
    std::memcpy(to, text, static_cast<size_t>(size));
    return torch::stable::detail::from(bytes);
  } catch (...) {
    AtenTensorHandle nothing = nullptr;
    aoti_torch_new_uninitialized_tensor(&nothing);
    return torch::stable::detail::from(nothing);
  }
}

// TORCH_BOX(function), which lets no exception out.
template <class Function, Function* function>
void guarded(StableIValue* stack, uint64_t inputs, uint64_t outputs) noexcept {
  const auto fail = [&](const char* text) {
    for (uint64_t i = 0; i < outputs; ++i) {
      stack[i] = message_of(text);
    }
  };
  try {
    torch::stable::detail::boxer<Function, function>::boxed_fn(stack, inputs, outputs);
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("an unknown error");
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
