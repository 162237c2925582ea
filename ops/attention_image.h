// Images in any memory format and type as tiles of pixels: kTile pixels, each a row of channels in the arithmetic's type.
// Rows that lie so are used where they are; others are brought into a buffer (transposed, widened, padded with zeros to
// whole vectors), and from there.
#pragma once

#include "common.h"
#include "simd.h"

#include <memory>

namespace ganformer {

constexpr int64_t kTile = 64;

// Bytes from which on a result is written past the caches.
constexpr int64_t kStreamed = int64_t(1) << 25;

inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// ---------------------------------------------------------------------------------------------- sizes

struct Sizes {
  int64_t batch, channels, positions, heads, components, width;  // B, d, n, h, m, p

  int64_t rows() const {  // components of all heads
    return heads * components;
  }
};

// A head's components are lanes, padded to whole vectors; its weights lie without gaps, with room for a vector behind.
template <class V>
struct Padded {
  int64_t lanes, all_lanes, channels, width, weights;

  explicit Padded(const Sizes& s)
      : lanes(round_up(s.components, V::kWidth)),
        all_lanes(s.heads * lanes),
        channels(round_up(s.channels, V::kWidth)),
        width(round_up(s.width, V::kWidth)),
        weights(round_up(s.rows(), V::kWidth) + V::kWidth) {}
};

// ---------------------------------------------------------------------------------------------- memory

template <class T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

// One thread's working memory, handed out in pieces that begin with a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(uninitialised<T>(count + kLine)) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    next_ = memory_.get() + (64 - address % 64) % 64 / sizeof(T);
  }
  T* take(int64_t count) {
    T* piece = next_;
    next_ += round_up(count, kLine);
    return piece;
  }
  // What take() needs in all for pieces of these sizes.
  static int64_t needed(std::initializer_list<int64_t> counts) {
    int64_t all = 0;
    for (const int64_t count : counts) {
      all += round_up(count, kLine);
    }
    return all;
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(T);
  std::unique_ptr<T[]> memory_;
  T* next_;
};

// Fetches the next tile into the cache, some lines now and then while this one is computed with: all at once would wait
// for the memory, which can have only so many lines under way.
struct Ahead {
  const char* at = nullptr;
  int64_t step = 0;   // 0 where there is nothing to fetch
  int64_t times = 1;  // lines for each that is asked for

  GANFORMER_INLINE void fetch(int64_t lines) {
    for (int64_t i = step > 0 ? lines * times : 0; i > 0; --i, at += step) {
      fetch_line(at);
    }
  }
};

// ---------------------------------------------------------------------------------------------- images

// x [B, d, n] in either memory format, in the arithmetic's type or in bfloat16.
template <class V>
class Image {
 public:
  using T = typename V::Scalar;
  static constexpr int W = V::kWidth;

  Image(const Tensor& x, bool writes)
      : data_(writes ? x.mutable_data_ptr() : const_cast<void*>(x.const_data_ptr())),
        channels_(x.size(1)),
        positions_(x.size(2)),
        padded_(round_up(channels_, W)),
        half_(x.scalar_type() == ScalarType::BFloat16),
        last_(layout_of(x) == Layout::channels_last),
        direct_(!half_ && last_ && channels_ % W == 0),
        streams_(
            writes && !half_ && (last_ ? channels_ : positions_) % W == 0 &&
            reinterpret_cast<uintptr_t>(data_) % 64 == 0 &&
            x.numel() * static_cast<int64_t>(sizeof(T)) >= kStreamed) {}

  // Elements of a buffer that holds a tile, of whole vectors of pixels.
  int64_t buffer_size() const {
    return direct_ ? 0 : kTile * padded_;
  }
  bool direct() const {
    return direct_;
  }
  int64_t stride() const {
    return padded_;
  }
  // Whether rows that are written where they lie are so much that they leave the caches before anyone reads them: then
  // they may be streamed.
  bool streams() const {
    return direct_ && streams_;
  }

  // `count` pixels from `first` on of image b, as rows of stride() numbers.
  const T* read(int64_t b, int64_t first, int64_t count, T* buffer) const {
    if (direct_) {
      return static_cast<const T*>(data_) + (b * positions_ + first) * channels_;
    }
    if (last_) {
      const int64_t start = (b * positions_ + first) * channels_;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < padded_; c += W) {
          load(start + i * channels_ + c, channels_ - c).store(buffer + i * padded_ + c);
        }
      }
      return buffer;
    }
    // The channels' pixels lie far apart: those of the next vector of channels are asked for, all at once, before these
    // are transposed.
    T raw[2][W][kTile];
    fetch(b, 0, first, count, raw[0]);
    for (int64_t c = 0; c < channels_; c += W) {
      const auto& now = raw[c / W % 2];
      if (c + W < channels_) {
        fetch(b, c + W, first, count, raw[(c / W + 1) % 2]);
      }
      for (int64_t i = 0; i < count; i += W) {
        V rows[W];
        GANFORMER_UNROLL
        for (int k = 0; k < W; ++k) {
          rows[k] = V::load(now[k] + i);
        }
        transpose(rows);
        GANFORMER_UNROLL
        for (int k = 0; k < W; ++k) {
          rows[k].store(buffer + (i + k) * padded_ + c);
        }
      }
    }
    return buffer;
  }

  // The memory that read() will want, where it lies together. The scores of a tile ask for half of it: they alone must
  // ask two times.
  Ahead ahead(int64_t b, int64_t first, int64_t count, int64_t times = 1) const {
    if (!last_ || count <= 0) {
      return Ahead();
    }
    const int64_t size = half_ ? sizeof(uint16_t) : sizeof(T);
    // Of d channels' numbers of 4 bytes, a line for each time that is asked.
    return {static_cast<const char*>(data_) + (b * positions_ + first) * channels_ * size, 16 * size, times};
  }

  // Where the rows of a tile are to be written: call write() afterwards.
  T* rows(int64_t b, int64_t first, T* buffer) const {
    return direct_ ? static_cast<T*>(data_) + (b * positions_ + first) * channels_ : buffer;
  }
  void write(int64_t b, int64_t first, int64_t count, const T* buffer) const {
    if (direct_) {
      return;
    }
    if (last_) {
      const int64_t start = (b * positions_ + first) * channels_;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < channels_; c += W) {
          store(V::load(buffer + i * padded_ + c), start + i * channels_ + c, channels_ - c);
        }
      }
      return;
    }
    for (int64_t c = 0; c < channels_; c += W) {
      for (int64_t i = 0; i < count; i += W) {
        V rows[W];
        GANFORMER_UNROLL
        for (int k = 0; k < W; ++k) {
          rows[k] = V::load(buffer + (i + k) * padded_ + c);
        }
        transpose(rows);
        const int64_t start = (b * channels_ + c) * positions_ + first + i;
        if (streams_ && i + W <= count && c + W <= channels_) {
          GANFORMER_UNROLL
          for (int k = 0; k < W; ++k) {
            rows[k].stream(static_cast<T*>(data_) + start + k * positions_);
          }
          continue;
        }
        for (int k = 0; k < W && c + k < channels_; ++k) {
          store(rows[k], start + k * positions_, count - i);
        }
      }
    }
  }

 private:
  // W channels from c on of contiguous pixels, zeros where there are none.
  GANFORMER_INLINE void fetch(int64_t b, int64_t c, int64_t first, int64_t count, T (&to)[W][kTile]) const {
    const int64_t start = (b * channels_ + c) * positions_ + first;
    if (count < kTile || c + W > channels_) {
      for (int64_t k = 0; k < W; ++k) {
        for (int64_t i = 0; i < count; i += W) {
          (c + k < channels_ ? load(start + k * positions_ + i, count - i) : V::zero()).store(to[k] + i);
        }
      }
    } else if (half_) {
      fetch_all(static_cast<const uint16_t*>(data_) + start, to, [](const uint16_t* p) { return V::load_bf16(p, W); });
    } else {
      fetch_all(static_cast<const T*>(data_) + start, to, [](const T* p) { return V::load(p); });
    }
  }
  template <class From, class Load>
  GANFORMER_INLINE void fetch_all(const From* from, T (&to)[W][kTile], const Load& load) const {
    for (int64_t k = 0; k < W; ++k, from += positions_) {
      GANFORMER_UNROLL
      for (int64_t i = 0; i < kTile; i += W) {
        if (i * sizeof(From) % 64 == 0) {
          fetch_line(from + W * positions_ + i);  // of the next vector of channels
        }
        load(from + i).store(to[k] + i);
      }
    }
  }
  GANFORMER_INLINE V load(int64_t at, int64_t count) const {
    if (half_) {
      return V::load_bf16(static_cast<const uint16_t*>(data_) + at, count);
    }
    return V::load_first(static_cast<const T*>(data_) + at, count);
  }
  GANFORMER_INLINE void store(V v, int64_t at, int64_t count) const {
    if (half_) {
      v.store_bf16(static_cast<uint16_t*>(data_) + at, count);
    } else {
      v.store_first(static_cast<T*>(data_) + at, count);
    }
  }

  void* data_;
  int64_t channels_, positions_, padded_;
  bool half_, last_, direct_, streams_;
};

}  // namespace ganformer
