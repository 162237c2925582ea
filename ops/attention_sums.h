// What the attention operators share that add up over the positions of an image: pieces that do not depend on the number
// of threads, and their sum in order, so that a result is the same on any number of them.
#pragma once

#include "attention_tiles.h"

#include <vector>

namespace ganformer {

// An image's positions are summed in so many pieces at most, whatever the number of threads, and these in order.
constexpr int64_t kPieces = 16;

struct Pieces {
  int64_t size, count;  // positions of one, pieces of an image

  explicit Pieces(const Sizes& s)
      : size(std::max(8 * kTile, round_up(ceil_div(s.positions, kPieces), kTile))),
        count(ceil_div(s.positions, size)) {}

  // Calls f(image, piece) for all of them, in parallel.
  template <class F>
  void each(const Sizes& s, const F& f) const {
    const int64_t work = std::max<int64_t>(1, size * s.channels * (s.rows() + 1));
    parallel_for(
        0, s.batch * count, std::max<int64_t>(1, 8 * kGrain / work), [&](int64_t begin, int64_t end) {
          for (int64_t task = begin; task < end; ++task) {
            f(task / count, task % count);
          }
        });
  }
  // Calls f(first, count) for the tiles of a piece.
  template <class F>
  void tiles(const Sizes& s, int64_t piece, const F& f) const {
    const int64_t end = std::min(s.positions, (piece + 1) * size);
    for (int64_t first = piece * size; first < end; first += kTile) {
      f(first, std::min(kTile, end - first));
    }
  }
};

// Where a component of all heads is among the lanes.
template <class V>
inline int64_t lane_of(const Sizes& s, const Padded<V>& padded, int64_t row) {
  return row / s.components * padded.lanes + row % s.components;
}

// The positions of a tile as rows of whole vectors.
template <class V>
void read_positions(
    const typename V::Scalar* positions, const Sizes& s, const Padded<V>& padded, int64_t first, int64_t count,
    typename V::Scalar* to) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < padded.width; c += V::kWidth) {
      V::load_first(positions + (first + i) * s.width + c, s.width - c).store(to + i * padded.width + c);
    }
  }
}

// Adds up the pieces of all images, in order, for gradients whose batch is B or 1: of `rows` rows, `stride` numbers
// each, `size` from `offset` on.
template <class V, class From>
void add_pieces(
    const Sizes& s, const Pieces& pieces, const Tensor& to, int64_t rows, int64_t size, int64_t stride, int64_t offset,
    const From& from) {
  using T = typename V::Scalar;
  const int64_t batch = to.size(0), images = batch == s.batch ? 1 : s.batch;
  T* all = mutable_data<T>(to);
  const int64_t work = std::max<int64_t>(1, images * pieces.count * size);
  parallel_for(0, batch * rows, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* target = all + i * stride + offset;
      std::fill(target, target + size, T(0));
      for (int64_t k = 0; k < images * pieces.count; ++k) {
        const T* source = from(i / rows * pieces.count + k, i % rows);
        for (int64_t c = 0; c < size; ++c) {
          target[c] += source[c];
        }
      }
    }
  });
}

// The same for [B or 1, h, m, size].
template <class V, class From>
void add_pieces(const Sizes& s, const Pieces& pieces, const Tensor& to, int64_t size, const From& from) {
  add_pieces<V>(s, pieces, to, s.rows(), size, size, 0, from);
}

// Adds up the images' gradients by the positions, in order.
template <class T>
void add_positions(const Sizes& s, const T* each, const Tensor& to) {
  T* all = mutable_data<T>(to);
  const int64_t size = s.positions * s.width;
  parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
    std::fill(all + begin, all + end, T(0));
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t i = begin; i < end; ++i) {
        all[i] += each[b * size + i];
      }
    }
  });
}

}  // namespace ganformer
