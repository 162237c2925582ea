// Up-sampling by inserted zeros, padding or cropping, FIR filter, down-sampling on CUDA, polyphase: only those taps are
// used that meet a sample. The contract stands in upfirdn2d.cpp.
//
// A block makes a tile of outputs: for a filter that is a product, first the vertical sums of the columns that the tile
// needs, into shared memory, then the horizontal ones. Inputs come through the first-level cache, which sees each of
// them as often as there are taps over it. Lanes of a warp are neighbours along x, or 32 channels that lie together.

#include "cuda_common.h"

namespace ganformer {
namespace {

// Which samples and taps meet at an output coordinate: taps phase, phase + up, … meet samples first, first + 1, …
struct Meeting {
  int first, phase;
};

struct Axis {
  int in, out;
  int taps;
  int64_t up, down, before;

  __device__ Meeting at(int64_t o) const {
    const int64_t start = o * down - before;  // up-sampled coordinate under tap 0
    const int64_t phase = (up - start % up) % up;
    return {static_cast<int>((start + phase) / up), static_cast<int>(phase)};
  }
};

struct Resampling {
  Axis y, x;
  int64_t channels, planes;  // planes: images, times channels where those do not lie together
  bool separable, flip;
  float gain;
  const float* taps;

  // In the order of a correlation.
  __device__ float tap_y(int t) const {
    return gain * __ldg(taps + (flip ? t : y.taps - 1 - t));
  }
  __device__ float tap_x(int t) const {
    return __ldg(taps + (flip ? t : x.taps - 1 - t));
  }
  __device__ float tap(int ty, int tx) const {
    const int at = ty * x.taps + tx;
    return gain * __ldg(taps + (flip ? at : y.taps * x.taps - 1 - at));
  }
};

// ---------------------------------------------------------------------------------------------- separable, in tiles

template <bool kLast>
struct TileOf {
  static constexpr int y = kLast ? 8 : 16, x = kLast ? 8 : 64;
  static constexpr int lanes = kLast ? kWarp : 1;  // channels side by side
};

// Shared memory: meetings of the tile's columns, taps of both axes, and the vertical sums [tile y][width][lanes].
struct TileMemory {
  int width;  // samples along x that a tile needs at most
  int64_t meetings, taps, all;
};

template <bool kLast>
TileMemory tile_memory(const GanformerUpfirdn& call) {
  using Size = TileOf<kLast>;
  TileMemory memory{};
  const int64_t width = ((Size::x - 1) * call.down + call.taps_x) / call.up + 2;
  memory.meetings = Size::x * static_cast<int64_t>(sizeof(Meeting));
  memory.taps = round_up((call.taps_x + call.taps_y) * static_cast<int64_t>(sizeof(float)), 16);
  memory.all = memory.meetings + memory.taps + Size::y * width * Size::lanes * static_cast<int64_t>(sizeof(float));
  memory.width = static_cast<int>(smaller<int64_t>(width, INT32_MAX));
  return memory;
}

template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    upfirdn_tiles(Resampling a, TileMemory layout, unsigned tiles_y, unsigned tiles_x, const T* x, T* out) {
  using Size = TileOf<kLast>;
  GANFORMER_SHARED(memory);
  Meeting* meetings = reinterpret_cast<Meeting*>(memory);
  float* taps_x = reinterpret_cast<float*>(memory + layout.meetings);
  float* taps_y = taps_x + a.x.taps;
  float* sums = reinterpret_cast<float*>(memory + layout.meetings + layout.taps);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  int64_t tile = blockIdx.x;
  const int64_t channel = kLast ? tile % ceil_div(a.channels, kWarp) * kWarp + lane : 0;
  tile = kLast ? tile / ceil_div(a.channels, kWarp) : tile;
  const int begin_x = static_cast<int>(tile % tiles_x) * Size::x;
  const int begin_y = static_cast<int>(tile / tiles_x % tiles_y) * Size::y;
  const int64_t plane = tile / tiles_x / tiles_y, step = kLast ? a.channels : 1;
  const bool there = !kLast || channel < a.channels;
  const T* from = x + plane * a.y.in * a.x.in * step + channel;
  T* to = out + plane * a.y.out * a.x.out * step + channel;

  for (int i = threadIdx.x; i < Size::x; i += kThreads) {
    meetings[i] = a.x.at(begin_x + i);
  }
  for (int i = threadIdx.x; i < a.x.taps + a.y.taps; i += kThreads) {
    taps_x[i] = i < a.x.taps ? a.tap_x(i) : a.tap_y(i - a.x.taps);
  }
  __syncthreads();

  // Vertical sums: a warp takes rows in turn.
  const int first_x = meetings[0].first;
  const int end_x = smaller(a.x.out - begin_x, Size::x), end_y = smaller(a.y.out - begin_y, Size::y);
  const int up_x = static_cast<int>(a.x.up), up_y = static_cast<int>(a.y.up);
  const Meeting last = meetings[end_x - 1];
  const int columns = last.first - first_x + (last.phase < a.x.taps ? (a.x.taps - 1 - last.phase) / up_x + 1 : 0);
  for (int row = warp; row < end_y; row += kWarps) {
    const Meeting y = a.y.at(begin_y + row);
    for (int i = kLast ? 0 : lane; i < columns; i += kLast ? 1 : kWarp) {
      const int column = first_x + i;
      float sum = 0;
      if (there && column >= 0 && column < a.x.in) {
        int sample = y.first;
        for (int t = y.phase; t < a.y.taps; t += up_y, ++sample) {
          if (sample >= 0 && sample < a.y.in) {
            sum = fmaf(taps_y[t], to_float(from[(static_cast<int64_t>(sample) * a.x.in + column) * step]), sum);
          }
        }
      }
      sums[(row * layout.width + i) * Size::lanes + (kLast ? lane : 0)] = sum;
    }
  }
  __syncthreads();

  for (int row = warp; row < end_y; row += kWarps) {
    for (int i = kLast ? 0 : lane; i < end_x; i += kLast ? 1 : kWarp) {
      const Meeting meeting = meetings[i];
      const float* line = sums + (row * layout.width + meeting.first - first_x) * Size::lanes + (kLast ? lane : 0);
      float sum = 0;
      for (int t = meeting.phase; t < a.x.taps; t += up_x, line += Size::lanes) {
        sum = fmaf(taps_x[t], *line, sum);
      }
      if (there) {
        to[(static_cast<int64_t>(begin_y + row) * a.x.out + begin_x + i) * step] = from_float<T>(sum);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- anything else

// A thread for an output: filters that are no product, those that no tile can hold, and images of few channels.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads) upfirdn_each(Resampling a, int64_t total, const T* x, T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, together = kLast ? a.channels : 1;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
    const int64_t channel = i % together, place = i / together;
    const int64_t column = place % a.x.out, row = place / a.x.out % a.y.out, plane = place / a.x.out / a.y.out;
    const Meeting meeting_x = a.x.at(column), meeting_y = a.y.at(row);
    const T* from = x + plane * a.y.in * a.x.in * together + channel;
    float sum = 0;
    int64_t sample_y = meeting_y.first;
    for (int64_t ty = meeting_y.phase; ty < a.y.taps; ty += a.y.up, ++sample_y) {
      if (sample_y >= 0 && sample_y < a.y.in) {
        float line = 0;
        int64_t sample_x = meeting_x.first;
        for (int64_t tx = meeting_x.phase; tx < a.x.taps; tx += a.x.up, ++sample_x) {
          if (sample_x >= 0 && sample_x < a.x.in) {
            const float tap = a.separable ? a.tap_x(static_cast<int>(tx))
                                          : a.tap(static_cast<int>(ty), static_cast<int>(tx));
            line = fmaf(tap, to_float(from[(sample_y * a.x.in + sample_x) * together]), line);
          }
        }
        sum = a.separable ? fmaf(a.tap_y(static_cast<int>(ty)), line, sum) : sum + line;
      }
    }
    out[i] = from_float<T>(sum);
  }
}

// ---------------------------------------------------------------------------------------------- launches

template <class T, bool kLast>
int resample(const GanformerUpfirdn& call, void* stream) {
  using Size = TileOf<kLast>;
  const auto axis = [&](int64_t in, int64_t out, int32_t taps, int64_t before) {
    return Axis{static_cast<int>(in), static_cast<int>(out), taps, call.up, call.down, before};
  };
  const Resampling a{axis(call.in_y, call.out_y, call.taps_y, call.before_y),
                     axis(call.in_x, call.out_x, call.taps_x, call.before_x),
                     call.channels,
                     kLast ? call.batch : call.batch * call.channels,
                     call.separable != 0,
                     call.flip != 0,
                     call.gain,
                     call.taps};
  const T* x = static_cast<const T*>(call.x);
  T* out = static_cast<T*>(call.out);
  const TileMemory memory = tile_memory<kLast>(call);
  if (a.separable && memory.all <= 48 * 1024 && (!kLast || call.channels >= kWarp / 2)) {
    const unsigned tiles_y = static_cast<unsigned>(ceil_div(call.out_y, Size::y));
    const unsigned tiles_x = static_cast<unsigned>(ceil_div(call.out_x, Size::x));
    const int64_t blocks = a.planes * tiles_y * tiles_x * (kLast ? ceil_div(call.channels, kWarp) : 1);
    return launch(upfirdn_tiles<T, kLast>, blocks, kThreads, memory.all, stream, a, memory, tiles_y, tiles_x, x, out);
  }
  const int64_t total = call.batch * call.channels * call.out_y * call.out_x;
  const int64_t blocks = smaller<int64_t>(ceil_div(total, kThreads), 1 << 20);
  return launch(upfirdn_each<T, kLast>, blocks, kThreads, 0, stream, a, total, x, out);
}

}  // namespace
}  // namespace ganformer

using namespace ganformer;

int ganformer_upfirdn2d(const GanformerUpfirdn* call, void* stream) {
  return dispatch(call->type, [&](auto type) {
    using T = decltype(type);
    return call->channels_last ? resample<T, true>(*call, stream) : resample<T, false>(*call, stream);
  });
}
