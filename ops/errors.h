// Errors do not leave the library as C++ exceptions: torch may come from another compiler (Microsoft's on Windows), which
// cannot catch ours, and the process would end. A kernel that fails returns a message in place of its result: bytes, which
// no result of ours is made of. native.py turns it into an error.
#pragma once

// Before the rest of torch's headers, which use the checks that are replaced here.
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace ganformer {

// A line of text, cut off where it is full. torch's own checks write theirs with streams, for which zig would compile all
// of its C++ library before it links.
class Message {
 public:
  const char* text() const {
    return text_;
  }
  void add(const char* words) {
    const size_t count = std::min(std::strlen(words), sizeof text_ - 1 - size_);
    std::memcpy(text_ + size_, words, count);
    size_ += count;
    text_[size_] = 0;
  }
  void add(const std::string& words) {
    add(words.c_str());
  }
  template <class Number, std::enable_if_t<std::is_arithmetic_v<Number>, int> = 0>
  void add(Number number) {
    char digits[32];
    if constexpr (std::is_floating_point_v<Number>) {
      std::snprintf(digits, sizeof digits, "%g", static_cast<double>(number));
    } else {
      std::snprintf(digits, sizeof digits, "%lld", static_cast<long long>(number));
    }
    add(static_cast<const char*>(digits));
  }

 private:
  size_t size_ = 0;
  char text_[1024] = "";
};

template <class... Words>
[[noreturn]] void fail(const Words&... words) {
  Message message;
  (message.add(words), ...);
  throw std::runtime_error(message.text());
}

}  // namespace ganformer

#undef STD_TORCH_CHECK
#define STD_TORCH_CHECK(condition, ...)                \
  if (C10_UNLIKELY_OR_CONST(!(condition))) {           \
    ::ganformer::fail(__VA_ARGS__);                    \
  }
#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call)                   \
  if ((call) != TORCH_SUCCESS) {                       \
    ::ganformer::fail(#call " failed");                \
  }

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

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
// the message of the first one is kept, and thrown here.
template <class Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  std::atomic<bool> failed{false};
  Message first;
  const auto keep = [&](const char* text) {
    if (!failed.exchange(true)) {
      first.add(text);
    }
  };
  torch::stable::parallel_for(begin, end, grain, [&](int64_t from, int64_t to) noexcept {
    try {
      run(from, to);
    } catch (const std::exception& error) {
      keep(error.what());
    } catch (...) {
      keep("an unknown error");
    }
  });
  if (failed) {
    fail(first.text());
  }
}

}  // namespace ganformer
