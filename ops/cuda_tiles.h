// Tiles of an image in shared memory, for the attention kernels.
#pragma once

#include "cuda_common.h"

namespace ganformer {
namespace {

constexpr int kGroup = 8;  // channels that a thread reads at once

// Numbers per row, padded with zeros: a multiple of kGroup floats, aligned to 16 bytes.
struct Rows {
  const float* data;
  int64_t stride;
};

__device__ __forceinline__ void load_group(const float* from, float (&to)[kGroup]) {
#pragma unroll
  for (int i = 0; i < kGroup; i += 4) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(from + i));
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

// The image that a tile is cut from: one image, [channels][pixels] or channels-last [pixels][channels].
struct Cut {
  int64_t channels, pixels;    // of the image
  int64_t channel, pixel;      // where the tile begins
  int width, padded, count;    // channels and pixels that are there; padded: channels rounded up to kGroup
  bool packs;                  // 16 bytes at a time
};

// kPixels · 32 pixels. Rows of the tile are pixels in the channels-last layout (kLast), else channels, with 16 bytes
// between them so that neither access, along rows or across, meets the same bank of memory twice.
template <class T, bool kLast, int kPixels>
struct Tile {
  static constexpr int pixels = kPixels * kWarp;
  T* data;
  int stride = 0;

  __device__ explicit Tile(void* memory) : data(static_cast<T*>(memory)) {}

  __host__ __device__ static int stride_for(int padded) {
    return (kLast ? padded : pixels) + kPack<T>;
  }
  __host__ __device__ static int64_t bytes(int padded) {
    return static_cast<int64_t>(stride_for(padded)) * (kLast ? pixels : padded) * static_cast<int64_t>(sizeof(T));
  }

  // Which pixel lane's j-th is.
  __device__ static int pixel(int lane, int j) {
    return kLast ? lane + kWarp * j : lane * kPixels + j;
  }

  __device__ const T* source(const T* image, const Cut& cut, int line) const {
    return kLast ? image + (cut.pixel + line) * cut.channels + cut.channel
                 : image + (cut.channel + line) * cut.pixels + cut.pixel;
  }

  // From global memory; zeros where there is nothing. There after copies_done() and __syncthreads().
  __device__ void fill(const T* image, const Cut& cut) {
    stride = stride_for(cut.padded);
    const int lines = kLast ? pixels : cut.padded, length = kLast ? cut.padded : pixels;
    const int lines_there = kLast ? cut.count : cut.width, length_there = kLast ? cut.width : cut.count;
    if (cut.packs) {
      const int packs = length / kPack<T>;
      for (int i = threadIdx.x; i < lines * packs; i += kThreads) {
        const int line = i / packs, place = i % packs * kPack<T>;
        T* to = data + line * stride + place;
        if (line < lines_there && place < length_there) {
          copy16(to, source(image, cut, line) + place);
        } else {
          *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
        }
      }
    } else {
      for (int i = threadIdx.x; i < lines * length; i += kThreads) {
        const int line = i / length, place = i % length;
        const bool there = line < lines_there && place < length_there;
        data[line * stride + place] = there ? source(image, cut, line)[place] : from_float<T>(0);
      }
    }
  }

  // Back to global memory, what is there. After __syncthreads().
  __device__ void drain(T* image, const Cut& cut) const {
    const int lines = kLast ? cut.count : cut.width, length = kLast ? cut.width : cut.count;
    if (cut.packs) {
      const int packs = length / kPack<T>;
      for (int i = threadIdx.x; i < lines * packs; i += kThreads) {
        const int line = i / packs, place = i % packs * kPack<T>;
        *reinterpret_cast<uint4*>(const_cast<T*>(source(image, cut, line)) + place) =
            *reinterpret_cast<const uint4*>(data + line * stride + place);
      }
    } else {
      for (int i = threadIdx.x; i < lines * length; i += kThreads) {
        const int line = i / length, place = i % length;
        const_cast<T*>(source(image, cut, line))[place] = data[line * stride + place];
      }
    }
  }

  // Channels c to c + kGroup of the lane's pixels.
  __device__ __forceinline__ void read(int c, int lane, float (&to)[kPixels][kGroup]) const {
    if (kLast) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        load_pack<T, kGroup>(data + pixel(lane, j) * stride + c, to[j]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        float there[kPixels];
        load_pack<T, kPixels>(data + (c + k) * stride + lane * kPixels, there);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          to[j][k] = there[j];
        }
      }
    }
  }

  // The reverse: nobody else reads or writes these elements before the next barrier.
  __device__ __forceinline__ void write(int c, int lane, const float (&from)[kPixels][kGroup]) {
    if (kLast) {
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        store_pack<T, kGroup>(data + pixel(lane, j) * stride + c, from[j]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        float here[kPixels];
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          here[j] = from[j][k];
        }
        store_pack<T, kPixels>(data + (c + k) * stride + lane * kPixels, here);
      }
    }
  }

  // Pixels p to p + 4 of a channel.
  __device__ __forceinline__ void read_four(int c, int p, float (&to)[4]) const {
    if (kLast) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[i] = to_float(data[(p + i) * stride + c]);
      }
    } else {
      load_pack<T, 4>(data + c * stride + p, to);
    }
  }
};

}  // namespace
}  // namespace ganformer
