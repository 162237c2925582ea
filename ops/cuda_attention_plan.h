// How an attention kernel is started: its arguments, how much of the image fits into shared memory, and workspaces.
#pragma once

#include "cuda_attention.h"

namespace ganformer {
namespace {

// The arguments of all attention kernels. `..._step`: numbers from one image's to the next's, 0 where they share one.
struct Problem {
  int64_t batch, channels, pixels;
  int64_t padded;             // channels rounded up to kGroup
  int heads, components, rows;
  int chunk;                  // channels of a tile
  bool packs;
  int integration;
  bool layer, over_positions;
  Rows keys, values, position_keys;
  int64_t keys_step, values_step, position_keys_step;
  const float *key_bias, *value_bias, *positions;
  int64_t key_bias_step, value_bias_step;
  int place, place_padded;    // width of a position
  Dropout dropout;
  float* spilled;             // scores that do not fit into shared memory
  int64_t spilled_step;       // numbers of a block

  __device__ Needs needs() const {
    return {layer && integration != kMul, layer && integration != kAdd};
  }
  __device__ bool resident() const {
    return chunk >= channels;
  }
  __device__ Cut cut(int64_t channel, int64_t pixel, int64_t end, int tile) const {
    const int width = static_cast<int>(smaller<int64_t>(chunk, channels - channel));
    const int count = static_cast<int>(smaller<int64_t>(tile, end - pixel));
    return {channels, pixels, channel, pixel, width, static_cast<int>(round_up(width, kGroup)), count, packs};
  }
  __device__ Places places(int64_t image, int64_t pixel, int count) const {
    if (place == 0) {
      return no_places(count);
    }
    const Rows own{position_keys.data + image * position_keys_step, position_keys.stride};
    return {positions + pixel * place_padded, own, place_padded, place, count};
  }
  __device__ Rows keys_of(int64_t image) const {
    return {keys.data + image * keys_step, keys.stride};
  }
};

// ---------------------------------------------------------------------------------------------- preparation

__global__ void pad_rows(const float* from, int64_t rows, int64_t width, float* to, int64_t padded) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows * padded; i += step) {
    const int64_t column = i % padded;
    to[i] = column < width ? from[i / padded * width + column] : 0;
  }
}

// Carries out the steps of a call as long as they succeed, or only counts the numbers that they need.
struct Run {
  Workspace workspace;
  void* stream;
  bool counts;
  int status = 0;

  // Rows as the kernels want them: themselves, or a copy that is padded.
  const float* padded(const float* from, int64_t rows, int64_t width) {
    const int64_t wide = round_up(width, kGroup);
    if (from == nullptr || rows == 0 || width == 0 || (wide == width && aligned(from))) {
      return from;
    }
    float* to = workspace.take(rows * wide);
    if (!counts && status == 0) {
      const int64_t blocks = smaller<int64_t>(ceil_div(rows * wide, kThreads), 4096);
      status = launch(pad_rows, blocks, kThreads, 0, stream, from, rows, width, to, wide);
    }
    return to;
  }

  template <class... Parameters, class... Arguments>
  void start(void (*kernel)(Parameters...), int64_t blocks, int64_t shared, Arguments... arguments) {
    if (!counts && status == 0 && blocks > 0) {
      status = launch(kernel, blocks, kThreads, shared, stream, arguments...);
    }
  }

  void add_up(const Parts& parts, int64_t outer, float* out) {
    if (!counts && status == 0 && out != nullptr) {
      status = launch_sum_parts(parts, outer, out, stream);
    }
  }
};

// What `steps` need, or what became of them.
template <class Steps>
int64_t workspace_of(const GanformerAttention& call, const Steps& steps) {
  Run run{{nullptr}, nullptr, true};
  steps(call, run);
  return run.workspace.used;
}

template <class Steps>
int carry_out(const GanformerAttention& call, void* stream, const Steps& steps) {
  Run run{{call.workspace}, stream, false};
  steps(call, run);
  return run.status;
}

inline int halves(const GanformerAttention& call) {
  return call.integration == kBoth ? 2 : 1;
}

inline Problem problem_of(const GanformerAttention& call, Run& run) {
  Problem a{};
  a.batch = call.batch;
  a.channels = call.channels;
  a.pixels = call.pixels;
  a.padded = round_up(call.channels, kGroup);
  a.heads = static_cast<int>(call.heads);
  a.components = static_cast<int>(call.components);
  a.rows = a.heads * a.components;
  const int64_t line = call.channels_last ? call.channels : call.pixels;
  const int64_t pack = call.type == kFloat32 ? 4 : 8;
  a.packs = line % pack == 0 && aligned(call.x) && aligned(call.out) && aligned(call.grad) && aligned(call.dx);
  a.integration = call.integration;
  a.layer = call.layer != 0;
  a.over_positions = call.over_positions != 0;
  a.keys = {run.padded(call.keys, call.key_batch * a.rows, call.channels), a.padded};
  a.keys_step = call.key_batch > 1 ? a.rows * a.padded : 0;
  a.key_bias = call.key_bias;
  a.key_bias_step = call.key_bias_batch > 1 ? a.rows : 0;
  const int parts = halves(call);
  a.values = {run.padded(call.values, call.value_batch * a.rows * parts, call.channels), parts * a.padded};
  a.values_step = call.value_batch > 1 ? a.rows * a.values.stride : 0;
  a.value_bias = run.padded(call.value_bias, call.value_bias_batch * parts, call.channels);
  a.value_bias_step = call.value_bias_batch > 1 ? a.values.stride : 0;
  a.place = static_cast<int>(call.place);
  a.place_padded = static_cast<int>(round_up(call.place, kGroup));
  a.positions = run.padded(call.positions, call.pixels, call.place);
  a.position_keys = {run.padded(call.position_keys, call.position_key_batch * a.rows, call.place), a.place_padded};
  a.position_keys_step = call.position_key_batch > 1 ? a.rows * a.position_keys.stride : 0;
  a.dropout = {call.seed, static_cast<uint32_t>(llrint(call.dropout * (1 << 24))), 1};
  if (call.seed != nullptr) {
    a.dropout.scale = static_cast<float>(1 / (1 - call.dropout));
  }
  return a;
}

// ---------------------------------------------------------------------------------------------- plans

// Pixels of a sum over pixels that one block takes, and how many blocks an image has. Fixed by the sizes alone, not by
// the GPU: about 512 blocks are enough for the largest, and few enough to add up.
struct Ranges {
  int64_t length, count;
};

inline Ranges ranges_of(const GanformerAttention& call) {
  const int64_t wanted = larger<int64_t>(1, 512 / larger<int64_t>(1, call.batch));
  const int64_t length = larger<int64_t>(64, round_up(ceil_div(call.pixels, wanted), 64));
  return {length, ceil_div(call.pixels, length)};
}

struct Plan {
  int pixels;      // of a lane
  int chunk;       // channels of a tile
  int64_t shared;  // bytes
  bool spills;     // scores go to global memory
};

// What a block keeps in shared memory: tiles of channels × pixels, score buffers of rows × pixels, lines of pixels.
struct Wants {
  int tiles;
  int64_t score_rows, lines;
  int most_pixels;  // of a lane
};

// Two blocks at least share a multiprocessor, so that one computes while the other loads. The whole width of the image
// is kept if it fits, or loaded in chunks, several times.
template <class T, bool kLast>
Plan plan_for(const Problem& a, const Wants& wants) {
  const SharedMemory there = shared_memory();
  const int64_t budget = smaller(there.a_block, there.all / 2 - 1024);
  const int whole = static_cast<int>(larger<int64_t>(a.padded, kGroup));
  const auto bytes = [&](int pixels, int chunk, bool spills) {
    const int64_t tile = pixels == 2 ? Tile<T, kLast, 2>::bytes(chunk) : Tile<T, kLast, 1>::bytes(chunk);
    const int64_t lines = wants.lines + (spills ? 0 : wants.score_rows);
    return wants.tiles * tile + lines * pixels * kWarp * static_cast<int64_t>(sizeof(float));
  };
  if (wants.most_pixels == 2 && a.pixels > kWarp && bytes(2, whole, false) <= budget) {
    return {2, whole, bytes(2, whole, false), false};
  }
  const bool spills = wants.score_rows * kWarp * static_cast<int64_t>(sizeof(float)) > budget / 2;
  int chunk = whole;
  while (chunk > kGroup && bytes(1, chunk, spills) > budget) {
    // Eight warps with eight channels each are busy with a multiple of 64.
    const int step = chunk > 64 ? 64 : kGroup;
    chunk = (chunk - 1) / step * step;
  }
  return {1, chunk, bytes(1, chunk, spills), spills};
}

// The memory of a block, handed out in pieces of 16 bytes.
struct Pieces {
  unsigned char* shared;

  __device__ void* take(int64_t bytes) {
    unsigned char* piece = shared;
    shared += round_up(bytes, 16);
    return piece;
  }
  __device__ float* line(int pixels) {
    return static_cast<float*>(take(pixels * static_cast<int64_t>(sizeof(float))));
  }
};

// Calls run(T{}, layout, pixels) with what the call's type, layout and plan stand for, as types.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

template <class Action>
void with_types(const GanformerAttention& call, const Action& action) {
  dispatch(call.type, [&](auto type) {
    if (call.channels_last) {
      action(type, Constant<1>{});
    } else {
      action(type, Constant<0>{});
    }
    return 0;
  });
}

// ---------------------------------------------------------------------------------------------- gradient of positions

// dpositions[n][q] = Σ over images and rows of first · position_keys, + second · third: weights are [batch][rows][n].
struct PlaceGradient {
  const float* weights;
  Rows rows;
  int64_t step;  // of an image
};

__global__ void __launch_bounds__(kThreads)
    positions_gradient(PlaceGradient first, PlaceGradient second, int64_t batch, int rows, int64_t pixels, int place,
                       float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < pixels * place) {
    const int64_t p = i / place, q = i % place;
    float sum = 0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int r = 0; r < rows; ++r) {
        const int64_t at = (b * rows + r) * pixels + p;
        sum = fmaf(first.weights[at], first.rows.data[b * first.step + r * first.rows.stride + q], sum);
        if (second.weights != nullptr) {
          sum = fmaf(second.weights[at], second.rows.data[b * second.step + r * second.rows.stride + q], sum);
        }
      }
    }
    out[i] = sum;
  }
}

}  // namespace
}  // namespace ganformer
