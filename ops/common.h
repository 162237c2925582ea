// What the CPU operators share: element types, memory layouts, and checks that name the argument.
//
// Everything stands on torch's stable ABI, so that one binary serves every torch from 2.10 on.
#pragma once

#include "errors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#if defined(__SSE2__) || defined(_M_X64)
#define GANFORMER_STREAMS 1
#include <immintrin.h>
#endif

namespace ganformer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements that one thread should have at the least: below, starting a thread costs more than it brings.
constexpr int64_t kGrain = 16384;

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// ---------------------------------------------------------------------------------------------- element types

struct BFloat16 {
  uint16_t bits;
};

// The type that arithmetic on elements of type T is done in.
template <class T>
struct MathOf {
  using type = T;
};
template <>
struct MathOf<BFloat16> {
  using type = float;
};
template <class T>
using Math = typename MathOf<T>::type;

inline float load(float value) {
  return value;
}
inline double load(double value) {
  return value;
}
inline float load(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(float& to, float value) {
  to = value;
}
inline void store(double& to, double value) {
  to = value;
}
// Rounds to nearest even, and leaves a NaN a NaN.
inline void store(BFloat16& to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// Calls run(T{}) with the element type of x, which check_element_type() has seen.
template <class Run>
void dispatch(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Double:
      return run(double{});
    default:
      return run(float{});
  }
}

inline ScalarType math_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Working memory that begins with a cache line: vectors of it then never straddle two.
template <class A>
class Aligned {
 public:
  void resize(size_t size) {
    if (bytes_.size() < size * sizeof(A) + kLine) {
      bytes_.resize(size * sizeof(A) + kLine);
    }
  }
  A* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    return reinterpret_cast<A*>(bytes_.data() + (kLine - address % kLine) % kLine);
  }
  const A* data() const {
    return const_cast<Aligned*>(this)->data();
  }

 private:
  static constexpr size_t kLine = 64;
  std::vector<unsigned char> bytes_;
};

// Results from this size on may be written past the caches: they would not stay there until they are read, but push out
// the rows that are still at work. (An operator that only goes through the image once gains nothing.)
constexpr int64_t kStreamedBytes = int64_t(32) << 20;

inline bool streams(int64_t bytes) {
#ifdef GANFORMER_STREAMS
  return bytes >= kStreamedBytes;
#else
  (void)bytes;
  return false;
#endif
}

// Copies past the caches. A thread that has done so ends with end_stream(), before others may read.
template <class T>
void stream(const T* from, int64_t length, T* to) {
#ifdef GANFORMER_STREAMS
  constexpr int64_t kLine = 64;
  const auto* source = reinterpret_cast<const unsigned char*>(from);
  auto* target = reinterpret_cast<unsigned char*>(to);
  int64_t bytes = length * static_cast<int64_t>(sizeof(T));
  // Whole cache lines only: others share the first and the last.
  const int64_t head = std::min(bytes, (kLine - static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLine)) % kLine);
  std::memcpy(target, source, head);
  source += head, target += head, bytes -= head;
  for (; bytes >= kLine; bytes -= kLine, source += kLine, target += kLine) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#elif defined(__AVX__) || defined(__AVX2__)
    const auto* s = reinterpret_cast<const __m256i*>(source);
    auto* t = reinterpret_cast<__m256i*>(target);
    const __m256i a = _mm256_loadu_si256(s), b = _mm256_loadu_si256(s + 1);
    _mm256_stream_si256(t, a);
    _mm256_stream_si256(t + 1, b);
#else
    const auto* s = reinterpret_cast<const __m128i*>(source);
    auto* t = reinterpret_cast<__m128i*>(target);
    const __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1);
    const __m128i c = _mm_loadu_si128(s + 2), d = _mm_loadu_si128(s + 3);
    _mm_stream_si128(t, a);
    _mm_stream_si128(t + 1, b);
    _mm_stream_si128(t + 2, c);
    _mm_stream_si128(t + 3, d);
#endif
  }
  std::memcpy(target, source, bytes);
#else
  std::copy(from, from + length, to);
#endif
}

// Has what will be read soon brought nearer.
inline void prefetch(const void* address) {
#ifdef GANFORMER_STREAMS
  _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
#else
  (void)address;
#endif
}

inline void end_stream() {
#ifdef GANFORMER_STREAMS
  _mm_sfence();
#endif
}

// ---------------------------------------------------------------------------------------------- memory layouts

// Contiguous: positions next to each other, as [batch][channels][positions].
// Channels-last: channels next to each other, as [batch][positions][channels].
enum class Layout { contiguous, channels_last, neither };

// The layout of x [B, C, ...]. Where both fit (one channel, one position), the bytes are the same either way.
inline Layout layout_of(const Tensor& x) {
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  const int64_t dims = x.dim();
  bool contiguous = true, last = dims >= 2;
  int64_t step = 1;
  for (int64_t i = dims - 1; i >= 0; --i) {
    if (sizes[i] == 0) {
      return Layout::contiguous;
    }
    contiguous = contiguous && (sizes[i] == 1 || strides[i] == step);
    step *= sizes[i];
  }
  if (contiguous) {
    return Layout::contiguous;
  }
  if (last) {
    last = sizes[1] == 1 || strides[1] == 1;
    step = sizes[1];
    for (int64_t i = dims - 1; i >= 0; --i) {
      if (i != 1) {
        last = last && (sizes[i] == 1 || strides[i] == step);
        step *= sizes[i];
      }
    }
  }
  return last ? Layout::channels_last : Layout::neither;
}

// x itself where its layout is one of the two, else a contiguous copy.
inline Tensor dense(const Tensor& x) {
  return layout_of(x) == Layout::neither ? torch::stable::contiguous(x) : x;
}

// x itself where its bytes lie as those of `model` do (a dense tensor of the same shape), else a copy that does.
inline Tensor laid_out_as(const Tensor& model, const Tensor& x) {
  if (layout_of(x) == layout_of(model)) {
    return x;
  }
  Tensor copy = torch::stable::empty_like(model);
  torch::stable::copy_(copy, x);
  return copy;
}

// ---------------------------------------------------------------------------------------------- checks

inline void check_cpu(const char* name, const char* argument, const Tensor& x) {
  STD_TORCH_CHECK(x.is_cpu(), name, ": ", argument, " must be on the CPU");
}

inline void check_type(const char* name, const char* argument, const Tensor& x, ScalarType type) {
  check_cpu(name, argument, x);
  STD_TORCH_CHECK(
      x.scalar_type() == type, name, ": ", argument, " must be ", toString(type), ", and is ",
      toString(x.scalar_type()));
}

inline void check_element_type(const char* name, const char* argument, const Tensor& x) {
  check_cpu(name, argument, x);
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Double, name, ": ", argument,
      " must be float32, bfloat16 or float64, and is ", toString(type));
}

inline void check_same_shape(const char* name, const char* argument, const Tensor& x, const Tensor& model) {
  bool same = x.dim() == model.dim();
  for (int64_t i = 0; same && i < x.dim(); ++i) {
    same = x.size(i) == model.size(i);
  }
  STD_TORCH_CHECK(same, name, ": ", argument, " must have the shape of the result");
}

}  // namespace ganformer
