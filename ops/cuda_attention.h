// The parts that the attention kernels are made of.
//
// A block of 256 threads holds a tile of pixels with their channels in shared memory. Where pixels are the result
// (scores, new features), a lane of a warp stands for a pixel, and the warps share the channels among them; where rows
// of m-sized tensors are (sums over pixels), a thread stands for a channel. Keys and values are read through the
// first-level cache: all lanes of a warp ask for the same numbers, and no two warps of a block for the same ones.
//
// A "row" is a component of a head: R = h·m of them, head after head. Arithmetic is float throughout, on the ordinary
// units: tensor cores would round float features to 10 bits.
#pragma once

#include <math.h>

#include "cuda_tiles.h"

namespace ganformer {
namespace {

constexpr int kRows = 16;  // rows whose sums a thread has in registers
constexpr float kEpsilon = 1e-8f;

// Blocks that a multiprocessor's registers are shared by: as many as it can without keeping sums elsewhere.
template <bool kLast, int kPixels>
constexpr int kBlocks = kPixels == 1 || kLast ? 3 : 2;

// ---------------------------------------------------------------------------------------------- sources

// What the functions below read where a tile is meant: the tile itself,
template <class TileType>
struct Plain {
  const TileType& tile;

  template <int kPixels>
  __device__ __forceinline__ void read(int c, int lane, float (&to)[kPixels][kGroup]) const {
    tile.read(c, lane, to);
  }
  __device__ __forceinline__ void read_four(int c, int p, float (&to)[4]) const {
    tile.read_four(c, p, to);
  }
};

// or, in the backward pass, one of: the features x, the gradient of the result, and the gradient that a modulation
// gets: grad ⊙ ω(x), ω = (x − mean) · scale. Decided when the kernel runs, so that it holds the code of one only.
enum class Reads { features, gradient, modulation };

template <class TileType>
struct Chosen {
  TileType x, grad;
  const float *mean, *scale;
  Reads what;

  __device__ TileType first() const {
    TileType tile = grad;
    tile.data = what == Reads::features ? x.data : grad.data;
    return tile;
  }

  template <int kPixels>
  __device__ __forceinline__ void read(int c, int lane, float (&to)[kPixels][kGroup]) const {
    first().read(c, lane, to);
    if (what == Reads::modulation) {
      float features[kPixels][kGroup];
      x.read(c, lane, features);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        const int p = TileType::pixel(lane, j);
        const float m = mean[p], s = scale[p];
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          to[j][k] *= (features[j][k] - m) * s;
        }
      }
    }
  }
  __device__ __forceinline__ void read_four(int c, int p, float (&to)[4]) const {
    first().read_four(c, p, to);
    if (what == Reads::modulation) {
      float features[4];
      x.read_four(c, p, features);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[i] *= (features[i] - mean[p + i]) * scale[p + i];
      }
    }
  }
};

// ---------------------------------------------------------------------------------------------- statistics

// Which numbers ω needs: none, the mean (add), the mean square (mul), or both.
struct Needs {
  bool mean, square;

  __device__ bool any() const {
    return mean || square;
  }
};

// Of each pixel, in shared memory: [pixels] each. `square` is the sum of squares, around the mean if that is needed;
// finish() turns it into the factor of ω, and the mean into 0 where ω subtracts none.
struct Statistics {
  float *mean, *square, *count;
};

// A thread's part of them: sums around its first value, so that a mean far from 0 costs no digits.
template <int kPixels>
struct PartialStatistics {
  float first[kPixels], sum[kPixels], squares[kPixels];
  int count = 0;

  __device__ __forceinline__ void add(const float (&values)[kPixels][kGroup], int there, Needs needs) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (count == 0) {
        first[j] = needs.mean ? values[j][0] : 0;
        sum[j] = squares[j] = 0;
      }
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        const float value = k < there ? values[j][k] - first[j] : 0;
        sum[j] += value;
        squares[j] += value * value;
      }
    }
    count += there;
  }

  // Merges with what is there (Chan, Golub and LeVeque 1979). One warp after the other.
  __device__ __forceinline__ void merge(Statistics all, bool begin, int j, int p, Needs needs) const {
    const float n = static_cast<float>(count), before = begin ? 0 : all.count[p];
    const float mean = count == 0 ? 0 : first[j] + sum[j] / n;
    const float spread = count == 0 ? 0 : needs.mean ? squares[j] - sum[j] * (sum[j] / n) : squares[j];
    if (before == 0 || !needs.mean) {
      all.mean[p] = mean;
      all.square[p] = begin ? spread : all.square[p] + spread;
    } else if (count > 0) {
      const float delta = mean - all.mean[p];
      all.mean[p] += delta * (n / (before + n));
      all.square[p] += spread + delta * delta * (before * (n / (before + n)));
    }
    all.count[p] = before + n;
  }
};

__device__ __forceinline__ void finish_statistics(Statistics all, Needs needs, int64_t channels, int p) {
  const float mean_square = all.square[p] / static_cast<float>(channels);
  // Rounding can take the spread of equal values just below 0.
  all.square[p] = needs.square ? rsqrtf((mean_square < 0 ? 0 : mean_square) + kEpsilon) : 1;
  all.mean[p] = needs.mean ? all.mean[p] : 0;
}

// ---------------------------------------------------------------------------------------------- pixels as results

// Positions of the pixels, [pixels][width] padded like rows, and the rows that they are compared with.
struct Places {
  const float* positions;  // of the tile's first pixel
  Rows rows;
  int padded, width;       // 0: there are none
  int count;               // pixels that are there
};

__device__ __forceinline__ Places no_places(int count) {
  return {nullptr, {nullptr, 0}, 0, 0, count};
}

// out[r][p] = start[r] + Σ over channels source · row r, or added to what is there unless `begin`. An extra row, if
// there is one, comes last; without data it is made of ones. Ends with a barrier.
struct Products {
  int count;               // rows, without the extra one
  Rows rows;
  bool extra;
  const float* extra_row;
  const float* start;      // or null
  Places places;
  float* out;              // [count, and 1 if extra][pixels]
  bool begin;
};

template <int kPixels, bool kStatistics, class TileType, class Source>
__device__ __forceinline__ void row_products(
    const Products& todo, const Source& source, int padded, int width, Statistics all, Needs needs) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int groups = padded / kGroup, all_groups = groups + todo.places.padded / kGroup;
  const int rows = todo.count + (todo.extra ? 1 : 0);
  for (int begin = 0; begin < rows; begin += kRows) {
    float sums[kRows][kPixels] = {};
    PartialStatistics<kPixels> own;
    for (int g = warp; g < all_groups; g += kWarps) {
      float values[kPixels][kGroup];
      const float* row;
      int64_t stride;
      const bool channels = g < groups;
      if (channels) {
        source.read(g * kGroup, lane, values);
        if (kStatistics && begin == 0 && needs.any()) {
          own.add(values, smaller(kGroup, width - g * kGroup), needs);
        }
        row = todo.rows.data + g * kGroup;
        stride = todo.rows.stride;
      } else {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const int p = TileType::pixel(lane, j);
          const int64_t at = static_cast<int64_t>(p < todo.places.count ? p : 0) * todo.places.padded;
          load_group(todo.places.positions + at + (g - groups) * kGroup, values[j]);
        }
        row = todo.places.rows.data + (g - groups) * kGroup;
        stride = todo.places.rows.stride;
      }
      row += begin * stride;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float weights[kGroup];
        if (begin + r < todo.count) {
          load_group(row, weights);
        } else if (begin + r == todo.count && todo.extra && channels) {
          if (todo.extra_row != nullptr) {
            load_group(todo.extra_row + g * kGroup, weights);
          } else {
#pragma unroll
            for (int k = 0; k < kGroup; ++k) {
              weights[k] = 1;
            }
          }
        } else {
          break;
        }
        row += stride;
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            sums[r][j] = fmaf(values[j][k], weights[k], sums[r][j]);
          }
        }
      }
    }
    // Each warp adds its sums of two rows in turn: all are busy, and each row gets them in the same order every time.
    for (int step = 0; step < kWarps; ++step) {
      const int turn = (warp + step) % kWarps;
      const bool started = step > 0 || !todo.begin;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // Not an index, so that the sums stay in registers.
        if (turn == r / (kRows / kWarps) && begin + r < rows) {
          float start = 0;
          if (!started && todo.start != nullptr && begin + r < todo.count) {
            start = __ldg(todo.start + begin + r);
          }
#pragma unroll
          for (int j = 0; j < kPixels; ++j) {
            float* to = todo.out + (begin + r) * TileType::pixels + TileType::pixel(lane, j);
            *to = (started ? *to : start) + sums[r][j];
          }
        }
      }
      if (kStatistics && begin == 0 && needs.any() && warp == step) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          own.merge(all, step == 0 && todo.begin, j, TileType::pixel(lane, j), needs);
        }
      }
      __syncthreads();
    }
  }
}

// sums[j][k] += Σ over rows weights[r][pixel j] · row r, channels c to c + kGroup.
template <int kPixels, class TileType>
__device__ __forceinline__ void combine(
    const float* weights, int count, Rows rows, int64_t c, int lane, float (&sums)[kPixels][kGroup]) {
  const float* row = rows.data + c;
#pragma unroll 4
  for (int r = 0; r < count; ++r) {
    float values[kGroup], weight[kPixels];
    load_group(row, values);
    row += rows.stride;
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      weight[j] = weights[r * TileType::pixels + TileType::pixel(lane, j)];
    }
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        sums[j][k] = fmaf(weight[j], values[k], sums[j][k]);
      }
    }
  }
}

template <int kPixels>
__device__ __forceinline__ void start_sums(const float* row, int64_t c, float (&sums)[kPixels][kGroup]) {
  float values[kGroup] = {};
  if (row != nullptr) {
    load_group(row + c, values);
  }
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      sums[j][k] = values[k];
    }
  }
}

// Writes channels c to c + kGroup of the lane's pixels to an image that is not channels-last.
template <class T, int kPixels, class TileType>
__device__ __forceinline__ void write_planes(
    T* image, const Cut& cut, int c, int lane, const float (&from)[kPixels][kGroup]) {
  const int p = lane * kPixels;
  T* to = image + (cut.channel + c) * cut.pixels + cut.pixel + p;
  if (cut.count == TileType::pixels && cut.pixels % kPixels == 0 && c + kGroup <= cut.width) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      float here[kPixels];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        here[j] = from[j][k];
      }
      if (kPixels == 1) {
        to[k * cut.pixels] = from_float<T>(here[0]);
      } else {
        // An ordinary store, but one that the compiler does not take apart.
        __stwb(reinterpret_cast<typename Word<kPixels * sizeof(T)>::type*>(to + k * cut.pixels),
               word_of<T, kPixels>(here));
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        if (c + k < cut.width && p + j < cut.count) {
          to[k * cut.pixels + j] = from_float<T>(from[j][k]);
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- rows as results

// into[r][c] += Σ over the tile's pixels weights[r][p] · source. `keep`, if given: what is there is first multiplied
// with keep[r]. `ones`: a further row, after the others, whose weights are 1.
struct Sums {
  const float* weights;
  int count;
  float* into;
  int64_t stride;
  bool begin;  // nothing is there yet
  const float* keep;
  bool ones;
};

template <int kPixelsOfTile, class Source>
__device__ __forceinline__ void add_rows(const Sums& todo, const Source& source, int width) {
  for (int c = threadIdx.x; c < width; c += kThreads) {
    for (int begin = 0; begin < todo.count; begin += kRows) {
      float* into = todo.into + begin * todo.stride + c;
      float sums[kRows] = {}, plain = 0;
      const bool ones = todo.ones && begin == 0;
      for (int p = 0; p < kPixelsOfTile; p += 4) {
        float values[4];
        source.read_four(c, p, values);
        if (ones) {
          plain += (values[0] + values[1]) + (values[2] + values[3]);
        }
        const float* weights = todo.weights + begin * kPixelsOfTile + p;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (begin + r < todo.count) {
            const float4 four = *reinterpret_cast<const float4*>(weights + r * kPixelsOfTile);
            sums[r] = fmaf(four.x, values[0], sums[r]);
            sums[r] = fmaf(four.y, values[1], sums[r]);
            sums[r] = fmaf(four.z, values[2], sums[r]);
            sums[r] = fmaf(four.w, values[3], sums[r]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (begin + r < todo.count) {
          float* to = into + r * todo.stride;
          const float before = todo.begin ? 0 : todo.keep == nullptr ? *to : *to * todo.keep[begin + r];
          *to = before + sums[r];
        }
      }
      if (ones) {
        float* to = todo.into + todo.count * todo.stride + c;
        *to = (todo.begin ? 0 : *to) + plain;
      }
    }
  }
}

// The same for the pixels' positions, and, with no positions, for the plain sums of the weights: width 0, 1 column.
__device__ __forceinline__ void add_places(const Sums& todo, const Places& places, int pixels) {
  const int width = places.width == 0 ? 1 : places.width;
  for (int i = threadIdx.x; i < todo.count * width; i += kThreads) {
    const int r = i / width, q = i % width;
    const float* weights = todo.weights + r * pixels;
    float sum = 0;
    if (places.width == 0) {
      // Each row begins elsewhere, so that the threads read different banks.
      for (int p = 0; p < pixels; ++p) {
        sum += weights[(p + r) % pixels];
      }
    } else {
      for (int p = 0; p < places.count; ++p) {
        sum = fmaf(weights[p], __ldg(places.positions + static_cast<int64_t>(p) * places.padded + q), sum);
      }
    }
    float* to = todo.into + r * todo.stride + q;
    *to = (todo.begin ? 0 : todo.keep == nullptr ? *to : *to * todo.keep[r]) + sum;
  }
}

// ---------------------------------------------------------------------------------------------- softmax and dropout

// The cells that dropout leaves out: a hash of seed and place, in 32 bits, as in ganformer_cli/operators/attention.py.
struct Dropout {
  const int64_t* seed;  // null: nothing is dropped
  uint32_t threshold;   // hashes, of 24 bits, below this are dropped
  float scale;          // of what is left

  // The finaliser of MurmurHash3 (public domain).
  __device__ static uint32_t mix(uint32_t v) {
    v = (v ^ (v >> 16)) * 0x85EBCA6Bu;
    v = (v ^ (v >> 13)) * 0xC2B2AE35u;
    return v ^ (v >> 16);
  }
  // Of a pixel in an image's head (counted through all images).
  __device__ uint32_t row(int64_t head, int64_t pixel) const {
    const uint64_t all = static_cast<uint64_t>(*seed);
    const uint32_t start = mix(mix(static_cast<uint32_t>(all)) ^ static_cast<uint32_t>(all >> 32));
    return mix(mix(start + static_cast<uint32_t>(head) * 0x9E3779B9u) + static_cast<uint32_t>(pixel));
  }
  __device__ bool keeps(uint32_t row, int component) const {
    return (mix(row + static_cast<uint32_t>(component) * 0x9E3779B9u) >> 8) >= threshold;
  }
};

// Scores of a pixel and head become probabilities, [components] numbers that lie `step` apart.
__device__ __forceinline__ void softmax(float* scores, int components, int step) {
  float top = -INFINITY;
  for (int i = 0; i < components; ++i) {
    top = fmaxf(top, scores[i * step]);
  }
  float total = 0;
  for (int i = 0; i < components; ++i) {
    const float value = expf(scores[i * step] - top);
    scores[i * step] = value;
    total += value;
  }
  const float factor = 1 / total;
  for (int i = 0; i < components; ++i) {
    scores[i * step] *= factor;
  }
}

}  // namespace
}  // namespace ganformer
