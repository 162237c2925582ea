// What the attention operators share: keys packed for tiles of pixels, and three small matrix products. In each a number of
// the left is spread over a vector and multiplied with a vector of the right:
//     dots     scores[pixel][component] += row[pixel][channel] · keys[channel][component]
//     expand   result[pixel][channel]   += weight[pixel][component] · values[component][channel]
//     outer    sums[component][channel] += weight[pixel][component] · row[pixel][channel]
#pragma once

#include "attention_image.h"

#include <type_traits>

namespace ganformer {

// Rows × columns (in vectors) of results that stay in registers.
template <class V>
struct Block {
  static constexpr int kRows = 4, kColumns = 2;
};
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
template <>
struct Block<Float16Lanes> {
  static constexpr int kRows = 8, kColumns = 2;
};
#endif

// ---------------------------------------------------------------------------------------------- packing

// [batch · rows][size] as vectors of columns, [batch][vector][rows][W], zeros behind: what one block of `expand` reads
// lies together.
template <class V>
class Panels {
 public:
  using T = typename V::Scalar;
  static constexpr int W = V::kWidth;
  Panels() = default;
  // Every `stride` numbers a row of `size`.
  Panels(const T* from, int64_t batch, int64_t rows, int64_t size, int64_t stride)
      : item_(batch == 1 ? 0 : round_up(size, W) * rows), memory_(uninitialised<T>(batch * round_up(size, W) * rows)) {
    T* to = memory_.get();
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t c = 0; c < size; c += W) {
        for (int64_t j = 0; j < rows; ++j, to += W) {
          V::load_first(from + (b * rows + j) * stride + c, size - c).store(to);
        }
      }
    }
  }
  const T* item(int64_t b) const {
    return memory_.get() + b * item_;
  }

 private:
  int64_t item_ = 0;
  std::unique_ptr<T[]> memory_;
};

// Components as lanes: of [batch, h, m, size] with rows of `stride` numbers, [batch][size][h · padded m].
template <class V>
class Lanes {
 public:
  using T = typename V::Scalar;
  Lanes() = default;
  Lanes(const T* from, int64_t batch, const Sizes& s, int64_t size, int64_t stride, T padding = T(0))
      : item_(batch == 1 ? 0 : size * Padded<V>(s).all_lanes) {
    const Padded<V> padded(s);
    memory_ = uninitialised<T>(batch * size * padded.all_lanes);
    T* to = memory_.get();
    const int64_t work = std::max<int64_t>(1, size * padded.all_lanes);
    parallel_for(0, batch, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t h = 0; h < s.heads; ++h) {
          for (int64_t k = 0; k < size; ++k) {
            T* lanes = to + (b * size + k) * padded.all_lanes + h * padded.lanes;
            const T* column = from + (b * s.heads + h) * s.components * stride + k;
            for (int64_t j = 0; j < s.components; ++j) {
              lanes[j] = column[j * stride];
            }
            std::fill(lanes + s.components, lanes + padded.lanes, padding);
          }
        }
      }
    });
  }
  const T* item(int64_t b) const {
    return memory_.get() + b * item_;
  }

 private:
  int64_t item_ = 0;
  std::unique_ptr<T[]> memory_;
};

// ---------------------------------------------------------------------------------------------- products

template <int N>
using Count = std::integral_constant<int, N>;

// Calls f(Count<rows>, i) for blocks of rows that cover 0 … count − 1.
template <int N, class F>
GANFORMER_INLINE void by_blocks(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + N <= count; i += N) {
    f(Count<N>{}, i);
  }
  if constexpr (N > 4) {
    for (; i + 4 <= count; i += 4) {
      f(Count<4>{}, i);
    }
  }
  for (; i < count; ++i) {
    f(Count<1>{}, i);
  }
}

// acc[i][c] += Σ_k left[i · row + k · step] · right[k · stride + c]
// Inlined, so that what is constant at the call is one offset in an instruction instead of a register.
template <class V, int R, int C>
GANFORMER_INLINE void multiply_add(
    V (&acc)[R][C], const typename V::Scalar* left, int64_t row, int64_t step, const typename V::Scalar* right,
    int64_t stride, int64_t size) {
  for (int64_t k = 0; k < size; ++k) {
    V r[C];
    GANFORMER_UNROLL
    for (int c = 0; c < C; ++c) {
      r[c] = V::load(right + k * stride + c * V::kWidth);
    }
    GANFORMER_UNROLL
    for (int i = 0; i < R; ++i) {
      const V l = V::all(left[i * row + k * step]);
      GANFORMER_UNROLL
      for (int c = 0; c < C; ++c) {
        acc[i][c] = fma(l, r[c], acc[i][c]);
      }
    }
  }
}

// A left factor of dots: rows of `size` numbers, every `stride`, and what they meet, as lanes.
template <class T>
struct Term {
  const T* rows;
  int64_t stride, size;
  const T* lanes;
};

// Channels that are worked through at a time for all pixels of a tile, so that their keys stay in the nearest cache.
constexpr int64_t kChunk = 64;

// to[i][c] += Σ_k left[i][k] · right[k][c]. A function of its own, so that it has the registers for itself.
template <class V, int R, int C>
GANFORMER_NOINLINE void dots_of_block(
    const typename V::Scalar* left, int64_t row, const typename V::Scalar* right, int64_t stride, int64_t size,
    typename V::Scalar* to, Ahead& ahead) {
  V acc[R][C];
  GANFORMER_UNROLL
  for (int r = 0; r < R; ++r) {
    GANFORMER_UNROLL
    for (int c = 0; c < C; ++c) {
      acc[r][c] = V::load(to + r * stride + c * V::kWidth);
    }
  }
  for (int64_t k = 0; k < size; k += 16) {
    ahead.fetch(4);
    multiply_add<V, R, C>(acc, left + k, row, 1, right + k * stride, stride, std::min<int64_t>(16, size - k));
  }
  GANFORMER_UNROLL
  for (int r = 0; r < R; ++r) {
    GANFORMER_UNROLL
    for (int c = 0; c < C; ++c) {
      acc[r][c].store(to + r * stride + c * V::kWidth);
    }
  }
}

// to[pixel][lane] += Σ over the channels of one chunk.
template <class V, int C>
GANFORMER_INLINE void dots_of_chunk(
    const Term<typename V::Scalar>& term, int64_t channel, int64_t lane, int64_t count, int64_t all_lanes,
    typename V::Scalar* to, Ahead& ahead) {
  by_blocks<Block<V>::kRows>(count, [&](auto rows_, int64_t i) {
    dots_of_block<V, decltype(rows_)::value, C>(
        term.rows + i * term.stride + channel, term.stride, term.lanes + channel * all_lanes + lane, all_lanes,
        std::min(kChunk, term.size - channel), to + i * all_lanes + lane, ahead);
  });
}

// to[pixel][lane] += Σ over the terms.
template <class V, int Terms>
void add_dots(
    const Term<typename V::Scalar> (&terms)[Terms], int64_t count, int64_t all_lanes, typename V::Scalar* to,
    Ahead& ahead) {
  constexpr int W = V::kWidth;
  for (const auto& term : terms) {
    for (int64_t channel = 0; channel < term.size; channel += kChunk) {
      int64_t lane = 0;
      for (; lane + 2 * W <= all_lanes; lane += 2 * W) {
        dots_of_chunk<V, 2>(term, channel, lane, count, all_lanes, to, ahead);
      }
      if (lane < all_lanes) {
        dots_of_chunk<V, 1>(term, channel, lane, count, all_lanes, to, ahead);
      }
    }
  }
}

// to[pixel][lane] = bias[lane] + Σ over the terms; bias may be null.
template <class V, int Terms>
void dots(
    const Term<typename V::Scalar> (&terms)[Terms], const typename V::Scalar* bias, int64_t count, int64_t all_lanes,
    typename V::Scalar* to, Ahead& ahead) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t lane = 0; lane < all_lanes; lane += V::kWidth) {
      (bias == nullptr ? V::zero() : V::load(bias + lane)).store(to + i * all_lanes + lane);
    }
  }
  add_dots<V, Terms>(terms, count, all_lanes, to, ahead);
}

// sums[component][channel] += Σ_pixel weights[pixel][component] · rows[pixel][channel], `width` whole vectors wide. A tile
// is summed up by itself first: sums of sums round less than one long sum.
template <class V>
void outer(
    const typename V::Scalar* weights, int64_t weights_stride, const typename V::Scalar* rows, int64_t rows_stride,
    int64_t count, int64_t components, int64_t width, typename V::Scalar* sums) {
  constexpr int W = V::kWidth;
  const auto columns = [&](auto columns_, int64_t channel) {
    constexpr int C = decltype(columns_)::value;
    by_blocks<Block<V>::kRows>(components, [&](auto rows_, int64_t j) {
      constexpr int R = decltype(rows_)::value;
      V acc[R][C];
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        GANFORMER_UNROLL
        for (int c = 0; c < C; ++c) {
          acc[r][c] = V::zero();
        }
      }
      multiply_add<V, R, C>(acc, weights + j, 1, weights_stride, rows + channel, rows_stride, count);
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        GANFORMER_UNROLL
        for (int c = 0; c < C; ++c) {
          typename V::Scalar* to = sums + (j + r) * width + channel + c * W;
          (V::load(to) + acc[r][c]).store(to);
        }
      }
    });
  };
  int64_t channel = 0;
  for (; channel + 2 * W <= width; channel += 2 * W) {
    columns(Count<2>{}, channel);
  }
  if (channel < width) {
    columns(Count<1>{}, channel);
  }
}

// sums[number] += Σ_pixel rows[pixel][number], `width` whole vectors wide; a tile by itself first, as in `outer`.
template <class V>
void add_rows(
    const typename V::Scalar* rows, int64_t stride, int64_t count, int64_t width, typename V::Scalar* sums) {
  for (int64_t c = 0; c < width; c += V::kWidth) {
    V total = V::zero();
    for (int64_t i = 0; i < count; ++i) {
      total = total + V::load(rows + i * stride + c);
    }
    (V::load(sums + c) + total).store(sums + c);
  }
}

// ---------------------------------------------------------------------------------------------- softmax

// Over the components, of every pixel and head of a tile: scores, whose padding is −∞, to weights. All heads' components
// are lanes of the scores; their weights lie without gaps.
template <class V>
GANFORMER_NOINLINE void softmax(
    const typename V::Scalar* scores, const Sizes& s, const Padded<V>& padded, int64_t count,
    typename V::Scalar* weights) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  if (padded.all_lanes == W) {
    for (int64_t i = 0; i < count; ++i) {
      const V score = V::load(scores + i * W);
      const V e = exp(score - V::all(largest(score)));
      (e * V::all(T(1) / sum(e))).store(weights + i * padded.weights);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    // From the first head on: what it writes behind its own weights, the next one overwrites.
    for (int64_t h = 0; h < s.heads; ++h) {
      const T* from = scores + i * padded.all_lanes + h * padded.lanes;
      T* to = weights + i * padded.weights + h * s.components;
      V top = V::load(from);
      for (int64_t j = W; j < padded.lanes; j += W) {
        top = max(top, V::load(from + j));
      }
      const V most = V::all(largest(top));
      V total = V::zero();
      for (int64_t j = 0; j < padded.lanes; j += W) {
        const V e = exp(V::load(from + j) - most);
        e.store(to + j);
        total = total + e;
      }
      const V share = V::all(T(1) / sum(total));
      for (int64_t j = 0; j < padded.lanes; j += W) {
        (V::load(to + j) * share).store(to + j);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- comparison

// The arguments that say what the image is compared with.
struct KeyTensors {
  const Tensor& content;                   // [B or 1, h, m, d]
  const Tensor& bias;                      // [B or 1, h, m]
  const std::optional<Tensor>& positions;  // [n, p]
  const std::optional<Tensor>& place;      // [B or 1, h, m, p]
};

inline void check_argument(
    const char* name, const char* argument, const Tensor& x, ScalarType type, std::initializer_list<int64_t> sizes,
    bool shared = false) {
  check_type(name, argument, x, type);
  bool fits = x.dim() == static_cast<int64_t>(sizes.size()) && x.is_contiguous();
  int64_t axis = 0;
  for (const int64_t size : sizes) {
    fits = fits && (x.size(axis) == size || (axis == 0 && shared && x.size(axis) == 1));
    ++axis;
  }
  STD_TORCH_CHECK(fits, name, ": ", argument, " has a shape that does not fit x and keys, or is not contiguous");
}

inline Sizes checked_sizes(const char* name, const Tensor& x, const KeyTensors& keys) {
  check_cpu(name, "x", x);
  const ScalarType type = x.scalar_type(), wide = math_type(type);
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Double, name,
      ": x must be float32, bfloat16 or float64");
  STD_TORCH_CHECK(x.dim() == 3, name, ": x must be [B, d, n]");
  STD_TORCH_CHECK(layout_of(x) != Layout::neither, name, ": x must be contiguous or channels-last");
  STD_TORCH_CHECK(keys.content.dim() == 4, name, ": keys must be [B or 1, h, m, d]");
  Sizes s{x.size(0), x.size(1), x.size(2), keys.content.size(1), keys.content.size(2), 0};
  STD_TORCH_CHECK(s.heads > 0 && s.components > 0, name, ": keys must hold at least one component");
  check_argument(name, "keys", keys.content, wide, {s.batch, s.heads, s.components, s.channels}, true);
  check_argument(name, "key_bias", keys.bias, wide, {s.batch, s.heads, s.components}, true);
  STD_TORCH_CHECK(
      keys.positions.has_value() == keys.place.has_value(), name, ": positions and position_keys go together");
  if (keys.positions.has_value()) {
    STD_TORCH_CHECK(keys.positions->dim() == 2, name, ": positions must be [n, p]");
    s.width = keys.positions->size(1);
    check_argument(name, "positions", *keys.positions, wide, {s.positions, s.width});
    check_argument(name, "position_keys", *keys.place, wide, {s.batch, s.heads, s.components, s.width}, true);
  }
  return s;
}

// The keys as lanes, and the scores of a tile.
template <class V>
class Comparison {
 public:
  using T = typename V::Scalar;

  Comparison(const Sizes& s, const KeyTensors& keys)
      : width_(s.width),
        all_lanes_(Padded<V>(s).all_lanes),
        content_(data<T>(keys.content), keys.content.size(0), s, s.channels, s.channels),
        bias_(data<T>(keys.bias), keys.bias.size(0), s, 1, 1, -std::numeric_limits<T>::infinity()),
        channels_(s.channels) {
    if (s.width > 0) {
      positions_ = data<T>(*keys.positions);
      place_ = Lanes<V>(data<T>(*keys.place), keys.place->size(0), s, s.width, s.width);
    }
  }
  // Of image b, pixels `first` on, given as rows: [count][all lanes].
  void scores(int64_t b, int64_t first, int64_t count, const T* rows, int64_t stride, T* to, Ahead& ahead) const {
    const Term<T> content{rows, stride, channels_, content_.item(b)};
    if (width_ == 0) {
      const Term<T> terms[1] = {content};
      dots<V, 1>(terms, bias_.item(b), count, all_lanes_, to, ahead);
      return;
    }
    const Term<T> terms[2] = {content, {positions_ + first * width_, width_, width_, place_.item(b)}};
    dots<V, 2>(terms, bias_.item(b), count, all_lanes_, to, ahead);
  }

 private:
  int64_t width_, all_lanes_;
  Lanes<V> content_, bias_, place_;
  const T* positions_ = nullptr;
  int64_t channels_;
};

}  // namespace ganformer
