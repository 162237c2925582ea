// A row of numbers that are computed with at once: AVX-512, AVX2, or portable C++ that the compiler turns into what
// the machine has. Which one `FloatVector` is follows from the flags; all give the same function, NaN and infinity
// included, and differ in the last bit at most, and where exp is below 2⁻¹²⁵.
//
// Each has: Scalar, kWidth; zero(), all(a), load(p), load_first(p, count), load_bf16(p, count); store(p), stream(p),
// store_first(p, count), store_bf16(p, count); + - *, fma(a, b, c) = a·b + c, max, exp, sum, largest,
// keep_first(v, count), drop(v, row, first, threshold, factor), transpose(rows).
// The `count` first lanes are read or written, the others are zero or left alone. stream() writes to aligned memory past
// the caches; finish_streams() after the last one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(_MSC_VER)
#define GANFORMER_INLINE __forceinline
#define GANFORMER_NOINLINE __declspec(noinline)
#else
#define GANFORMER_INLINE inline __attribute__((always_inline))
#define GANFORMER_NOINLINE __attribute__((noinline))
#endif

// Before a loop over registers, whose every round must stand for itself.
#if defined(__clang__)
#define GANFORMER_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define GANFORMER_UNROLL _Pragma("GCC unroll 16")
#else
#define GANFORMER_UNROLL
#endif

namespace ganformer {

// ---------------------------------------------------------------------------------------------- hash of dropout

// The finaliser of MurmurHash3 (public domain).
inline uint32_t mix(uint32_t v) {
  v = (v ^ (v >> 16)) * 0x85EBCA6Bu;
  v = (v ^ (v >> 13)) * 0xC2B2AE35u;
  return v ^ (v >> 16);
}

constexpr uint32_t kGolden = 0x9E3779B9u;

// Hints that the cache line will be read or written soon. Inlined by force: GCC takes a function that does nothing else for one
// without effect, and drops the call.
GANFORMER_INLINE void fetch_line(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 3);
#elif defined(__AVX2__)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  (void)p;
#endif
}

// Makes what stream() wrote visible to other threads.
GANFORMER_INLINE void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// ---------------------------------------------------------------------------------------------- portable

inline uint16_t bf16_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

inline float float_of(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T, int N>
struct Array {
  using Scalar = T;
  static constexpr int kWidth = N;
  T lane[N];

  template <class F>
  static GANFORMER_INLINE Array made(const F& f) {
    Array r;
    for (int i = 0; i < N; ++i) {
      r.lane[i] = f(i);
    }
    return r;
  }
  static GANFORMER_INLINE Array all(T a) {
    return made([&](int) { return a; });
  }
  static GANFORMER_INLINE Array zero() {
    return all(T(0));
  }
  static GANFORMER_INLINE Array load(const T* p) {
    return made([&](int i) { return p[i]; });
  }
  static GANFORMER_INLINE Array load_first(const T* p, int64_t count) {
    return made([&](int i) { return i < count ? p[i] : T(0); });
  }
  static GANFORMER_INLINE Array load_bf16(const uint16_t* p, int64_t count) {
    return made([&](int i) { return i < count ? T(float_of(p[i])) : T(0); });
  }
  GANFORMER_INLINE void store(T* p) const {
    for (int i = 0; i < N; ++i) {
      p[i] = lane[i];
    }
  }
  GANFORMER_INLINE void stream(T* p) const {
    store(p);
  }
  GANFORMER_INLINE void store_first(T* p, int64_t count) const {
    for (int i = 0; i < N && i < count; ++i) {
      p[i] = lane[i];
    }
  }
  GANFORMER_INLINE void store_bf16(uint16_t* p, int64_t count) const {
    for (int i = 0; i < N && i < count; ++i) {
      p[i] = bf16_of(static_cast<float>(lane[i]));
    }
  }
  friend GANFORMER_INLINE Array operator+(const Array& a, const Array& b) {
    return made([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  friend GANFORMER_INLINE Array operator-(const Array& a, const Array& b) {
    return made([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  friend GANFORMER_INLINE Array operator*(const Array& a, const Array& b) {
    return made([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  friend GANFORMER_INLINE Array fma(const Array& a, const Array& b, const Array& c) {
    return made([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  friend GANFORMER_INLINE Array max(const Array& a, const Array& b) {
    return made([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  friend GANFORMER_INLINE Array exp(const Array& a) {
    return made([&](int i) { return std::exp(a.lane[i]); });
  }
  friend GANFORMER_INLINE T sum(const Array& a) {
    T s = 0;
    for (int i = 0; i < N; ++i) {
      s += a.lane[i];
    }
    return s;
  }
  friend GANFORMER_INLINE T largest(const Array& a) {
    T s = a.lane[0];
    for (int i = 1; i < N; ++i) {
      s = a.lane[i] > s ? a.lane[i] : s;
    }
    return s;
  }
  friend GANFORMER_INLINE Array keep_first(const Array& a, int64_t count) {
    return made([&](int i) { return i < count ? a.lane[i] : T(0); });
  }
  friend GANFORMER_INLINE Array drop(const Array& a, uint32_t row, uint32_t first, uint32_t threshold, T factor) {
    return made([&](int i) {
      const uint32_t hash = mix(row + (first + static_cast<uint32_t>(i)) * kGolden);
      return (hash >> 8) >= threshold ? a.lane[i] * factor : T(0);
    });
  }
  friend GANFORMER_INLINE void transpose(Array* rows) {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < i; ++j) {
        std::swap(rows[i].lane[j], rows[j].lane[i]);
      }
    }
  }
};

using DoubleVector = Array<double, 2>;

// exp(x) = 2ⁿ·exp(r) with n = round(x / ln 2) and |r| ≤ ln 2 / 2; there exp(r) = 1 + r + r²·q(r), q of degree 5 fitted
// for the smallest largest relative error (5e-11).
namespace exponential {
constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2High = 0.693145751953125f;  // few bits, so that n times it is exact
constexpr float kLn2Low = 1.42860682030941723e-6f;
// What is smaller becomes 0: numbers too small for float32's usual form cost processors a hundred cycles each, and the
// padding of every softmax, −∞, would make them.
constexpr float kLeast = -87.0f;
constexpr float kQ[6] = {0.5f, 0.1666666567325592f, 0.04166629537940025f,
                         0.008333496749401093f, 0.0013944661477580667f, 0.00019790351507253945f};

template <class V>
GANFORMER_INLINE V polynomial(V n, V x) {
  V r = fma(n, V::all(-kLn2High), x);
  r = fma(n, V::all(-kLn2Low), r);
  V q = V::all(kQ[5]);
  GANFORMER_UNROLL
  for (int i = 4; i >= 0; --i) {
    q = fma(q, r, V::all(kQ[i]));
  }
  return fma(q * r, r, r) + V::all(1.0f);
}
}  // namespace exponential

// ---------------------------------------------------------------------------------------------- AVX-512

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

struct Float16Lanes {
  using Scalar = float;
  static constexpr int kWidth = 16;
  __m512 v;

  static GANFORMER_INLINE __mmask16 mask(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
  }
  static GANFORMER_INLINE Float16Lanes all(float a) {
    return {_mm512_set1_ps(a)};
  }
  static GANFORMER_INLINE Float16Lanes zero() {
    return {_mm512_setzero_ps()};
  }
  static GANFORMER_INLINE Float16Lanes load(const float* p) {
    return {_mm512_loadu_ps(p)};
  }
  static GANFORMER_INLINE Float16Lanes load_first(const float* p, int64_t count) {
    return {count >= kWidth ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask(count), p)};
  }
  static GANFORMER_INLINE Float16Lanes load_bf16(const uint16_t* p, int64_t count) {
    const __m256i half = count >= kWidth ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                         : _mm256_maskz_loadu_epi16(mask(count), p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  GANFORMER_INLINE void store(float* p) const {
    _mm512_storeu_ps(p, v);
  }
  GANFORMER_INLINE void stream(float* p) const {
    _mm512_stream_ps(p, v);
  }
  GANFORMER_INLINE void store_first(float* p, int64_t count) const {
    if (count >= kWidth) {
      _mm512_storeu_ps(p, v);
    } else {
      _mm512_mask_storeu_ps(p, mask(count), v);
    }
  }
  GANFORMER_INLINE void store_bf16(uint16_t* p, int64_t count) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    rounded = _mm512_srli_epi32(rounded, 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
    if (count >= kWidth) {  // some processors take many cycles for a mask of 16 bits' numbers
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
    } else {
      _mm256_mask_storeu_epi16(p, mask(count), _mm512_cvtepi32_epi16(rounded));
    }
  }
  friend GANFORMER_INLINE Float16Lanes operator+(Float16Lanes a, Float16Lanes b) {
    return {_mm512_add_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float16Lanes operator-(Float16Lanes a, Float16Lanes b) {
    return {_mm512_sub_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float16Lanes operator*(Float16Lanes a, Float16Lanes b) {
    return {_mm512_mul_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float16Lanes fma(Float16Lanes a, Float16Lanes b, Float16Lanes c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  friend GANFORMER_INLINE Float16Lanes max(Float16Lanes a, Float16Lanes b) {
    return {_mm512_max_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float16Lanes exp(Float16Lanes a) {
    // Beyond these the result is 0 or infinity; a NaN, as the second operand, stays one.
    const __m512 least = _mm512_set1_ps(exponential::kLeast);
    const __m512 x = _mm512_min_ps(_mm512_set1_ps(100.0f), _mm512_max_ps(least, a.v));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(exponential::kLog2e)), 0x08);
    const __mmask16 counts = _mm512_cmp_ps_mask(a.v, least, _CMP_NLT_UQ);
    return {_mm512_maskz_scalef_ps(counts, exponential::polynomial(Float16Lanes{n}, Float16Lanes{x}).v, n)};
  }
  friend GANFORMER_INLINE float sum(Float16Lanes a) {
    return _mm512_reduce_add_ps(a.v);
  }
  friend GANFORMER_INLINE float largest(Float16Lanes a) {
    return _mm512_reduce_max_ps(a.v);
  }
  friend GANFORMER_INLINE Float16Lanes keep_first(Float16Lanes a, int64_t count) {
    return {_mm512_maskz_mov_ps(mask(count), a.v)};
  }
  friend GANFORMER_INLINE Float16Lanes drop(
      Float16Lanes a, uint32_t row, uint32_t first, uint32_t threshold, float factor) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i index = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first)));
    __m512i h = _mm512_mullo_epi32(index, _mm512_set1_epi32(static_cast<int>(kGolden)));
    h = _mm512_add_epi32(h, _mm512_set1_epi32(static_cast<int>(row)));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32(static_cast<int>(0x85EBCA6Bu)));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 13));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32(static_cast<int>(0xC2B2AE35u)));
    h = _mm512_srli_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)), 8);
    const __mmask16 kept = _mm512_cmpge_epi32_mask(h, _mm512_set1_epi32(static_cast<int>(threshold)));
    return {_mm512_maskz_mul_ps(kept, a.v, _mm512_set1_ps(factor))};
  }
  friend GANFORMER_INLINE void transpose(Float16Lanes* rows) {
    __m512 a[16], b[16];
    GANFORMER_UNROLL
    for (int i = 0; i < 16; i += 2) {  // 2 × 2 within 128 bits
      a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
      a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    GANFORMER_UNROLL
    for (int i = 0; i < 16; i += 4) {  // 4 × 4 within 128 bits
      const __m512d p = _mm512_castps_pd(a[i]), q = _mm512_castps_pd(a[i + 2]);
      const __m512d r = _mm512_castps_pd(a[i + 1]), s = _mm512_castps_pd(a[i + 3]);
      b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, q));
      b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, q));
      b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(r, s));
      b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(r, s));
    }
    GANFORMER_UNROLL
    for (int i = 0; i < 4; ++i) {  // the 4 × 4 blocks of 128 bits
      const __m512 even = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), odd = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
      const __m512 more = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
      const __m512 most = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
      rows[i].v = _mm512_shuffle_f32x4(even, more, 0x88);
      rows[i + 8].v = _mm512_shuffle_f32x4(even, more, 0xdd);
      rows[i + 4].v = _mm512_shuffle_f32x4(odd, most, 0x88);
      rows[i + 12].v = _mm512_shuffle_f32x4(odd, most, 0xdd);
    }
  }
};
using FloatVector = Float16Lanes;

// ---------------------------------------------------------------------------------------------- AVX2

#elif defined(__AVX2__)

struct Float8Lanes {
  using Scalar = float;
  static constexpr int kWidth = 8;
  __m256 v;

  static GANFORMER_INLINE __m256i mask(int64_t count) {
    const int bounded = static_cast<int>(count > 8 ? 8 : count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(bounded), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static GANFORMER_INLINE Float8Lanes all(float a) {
    return {_mm256_set1_ps(a)};
  }
  static GANFORMER_INLINE Float8Lanes zero() {
    return {_mm256_setzero_ps()};
  }
  static GANFORMER_INLINE Float8Lanes load(const float* p) {
    return {_mm256_loadu_ps(p)};
  }
  static GANFORMER_INLINE Float8Lanes load_first(const float* p, int64_t count) {
    return {count >= kWidth ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask(count))};
  }
  static GANFORMER_INLINE Float8Lanes load_bf16(const uint16_t* p, int64_t count) {
    __m128i half = _mm_setzero_si128();
    if (count >= 8) {
      half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    } else if (count > 0) {
      uint16_t some[8] = {};
      std::memcpy(some, p, static_cast<size_t>(count) * sizeof(uint16_t));
      half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(some));
    }
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  GANFORMER_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, v);
  }
  GANFORMER_INLINE void stream(float* p) const {
    _mm256_stream_ps(p, v);
  }
  GANFORMER_INLINE void store_first(float* p, int64_t count) const {
    if (count >= kWidth) {
      _mm256_storeu_ps(p, v);
    } else {
      _mm256_maskstore_ps(p, mask(count), v);
    }
  }
  GANFORMER_INLINE void store_bf16(uint16_t* p, int64_t count) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    if (count >= 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
    } else if (count > 0) {
      uint16_t some[8];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(some), half);
      std::memcpy(p, some, static_cast<size_t>(count) * sizeof(uint16_t));
    }
  }
  friend GANFORMER_INLINE Float8Lanes operator+(Float8Lanes a, Float8Lanes b) {
    return {_mm256_add_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float8Lanes operator-(Float8Lanes a, Float8Lanes b) {
    return {_mm256_sub_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float8Lanes operator*(Float8Lanes a, Float8Lanes b) {
    return {_mm256_mul_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float8Lanes fma(Float8Lanes a, Float8Lanes b, Float8Lanes c) {
#if defined(__FMA__) || defined(_MSC_VER)
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
#else
    return {_mm256_add_ps(_mm256_mul_ps(a.v, b.v), c.v)};
#endif
  }
  friend GANFORMER_INLINE Float8Lanes max(Float8Lanes a, Float8Lanes b) {
    return {_mm256_max_ps(a.v, b.v)};
  }
  friend GANFORMER_INLINE Float8Lanes exp(Float8Lanes a) {
    // A NaN, as the second operand, stays one. The exponent's bits hold −126 to 127: the largest numbers take two steps.
    const __m256 least = _mm256_set1_ps(exponential::kLeast);
    const __m256 x = _mm256_min_ps(_mm256_set1_ps(100.0f), _mm256_max_ps(least, a.v));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(exponential::kLog2e)), 0x08);
    const __m256 p = exponential::polynomial(Float8Lanes{n}, Float8Lanes{x}).v;
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    const __m256 result = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
    return {_mm256_and_ps(result, _mm256_cmp_ps(a.v, least, _CMP_NLT_UQ))};
  }
  friend GANFORMER_INLINE float sum(Float8Lanes a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  friend GANFORMER_INLINE float largest(Float8Lanes a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  friend GANFORMER_INLINE Float8Lanes keep_first(Float8Lanes a, int64_t count) {
    return {_mm256_and_ps(a.v, _mm256_castsi256_ps(mask(count)))};
  }
  friend GANFORMER_INLINE Float8Lanes drop(
      Float8Lanes a, uint32_t row, uint32_t first, uint32_t threshold, float factor) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i index = _mm256_add_epi32(lanes, _mm256_set1_epi32(static_cast<int>(first)));
    __m256i h = _mm256_mullo_epi32(index, _mm256_set1_epi32(static_cast<int>(kGolden)));
    h = _mm256_add_epi32(h, _mm256_set1_epi32(static_cast<int>(row)));
    h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 16));
    h = _mm256_mullo_epi32(h, _mm256_set1_epi32(static_cast<int>(0x85EBCA6Bu)));
    h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 13));
    h = _mm256_mullo_epi32(h, _mm256_set1_epi32(static_cast<int>(0xC2B2AE35u)));
    h = _mm256_srli_epi32(_mm256_xor_si256(h, _mm256_srli_epi32(h, 16)), 8);
    const __m256i dropped = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(threshold)), h);
    return {_mm256_andnot_ps(_mm256_castsi256_ps(dropped), _mm256_mul_ps(a.v, _mm256_set1_ps(factor)))};
  }
  friend GANFORMER_INLINE void transpose(Float8Lanes* rows) {
    __m256 a[8], b[8];
    GANFORMER_UNROLL
    for (int i = 0; i < 8; i += 2) {  // 2 × 2 within 128 bits
      a[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
      a[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    GANFORMER_UNROLL
    for (int i = 0; i < 8; i += 4) {  // 4 × 4 within 128 bits
      b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
      b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    GANFORMER_UNROLL
    for (int i = 0; i < 4; ++i) {  // the two halves
      rows[i].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
      rows[i + 4].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
  }
};
using FloatVector = Float8Lanes;

#else
using FloatVector = Array<float, 8>;
#endif

}  // namespace ganformer
