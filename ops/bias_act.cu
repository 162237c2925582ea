// Noise, bias, activation, gain and clamp in one pass over the image on CUDA, and their gradients in one pass. The
// contract and the rule of the gradient stand in bias_act.cpp.

#include <math.h>

#include "cuda_common.h"

namespace ganformer {
namespace {

constexpr float kSlope = 0.2f;

// What happens to one number after the additions.
template <class T>
struct Rule {
  float positive, negative, limit;

  __device__ Rule(int activation, float gain, float clamp) {
    positive = gain;
    negative = activation == 1 ? gain * kSlope : gain;
    // The limit as T has it: results that were clamped are found again by comparing with it.
    limit = clamp >= 0 ? to_float(from_float<T>(clamp)) : INFINITY;
  }

  // Comparisons are such that a NaN stays one.
  __device__ float value(float v) const {
    v *= v > 0 ? positive : negative;
    v = v > limit ? limit : v;
    return v < -limit ? -limit : v;
  }
};

// The derivative that a result tells.
template <class T>
struct Gate {
  float positive, negative, limit;

  __device__ Gate(int activation, float gain, float clamp) {
    const Rule<T> rule(activation, gain, clamp);
    positive = gain < 0 ? rule.negative : rule.positive;
    negative = gain < 0 ? rule.positive : rule.negative;
    // No result is compared as larger than NaN: without a clamp, an infinite one has its gradient, too.
    limit = clamp >= 0 ? rule.limit : NAN;
  }

  __device__ float factor(float out) const {
    return fabsf(out) >= limit ? 0 : out > 0 ? positive : negative;
  }
};

// The image as packs of kCount neighbours, [rows][packs]: rows are planes of a channel, or channels-last positions.
struct Packs {
  unsigned a_row, total;
};

// ---------------------------------------------------------------------------------------------- forward

template <class T, bool kLast, int kCount>
__global__ void __launch_bounds__(kThreads) bias_act_forward(GanformerBiasAct call, Packs packs) {
  const Rule<T> rule(call.activation, call.gain, call.clamp);
  const float strength = call.noise == nullptr ? 0 : *call.strength;
  const unsigned channels = static_cast<unsigned>(call.channels), positions = static_cast<unsigned>(call.positions);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t at = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; at < packs.total; at += step) {
    const unsigned i = static_cast<unsigned>(at), row = i / packs.a_row, place = i % packs.a_row * kCount;
    float values[kCount];
    load_pack(static_cast<const T*>(call.x) + at * kCount, values);
    if (call.noise != nullptr) {
      const T* noise = static_cast<const T*>(call.noise);
      const unsigned image = row / (kLast ? positions : channels);
      noise += call.noise_batch > 1 ? static_cast<uint64_t>(image) * positions : 0;
      if (kLast) {
        const float added = strength * to_float(noise[row % positions]);
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          values[k] += added;
        }
      } else {
        float drawn[kCount];
        load_pack(noise + place, drawn);
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          values[k] = fmaf(strength, drawn[k], values[k]);
        }
      }
    }
    if (call.bias != nullptr) {
      float added[kCount];
      if (kLast) {
        load_pack(call.bias + place, added);
      }
      const float of_row = kLast ? 0 : __ldg(call.bias + row % channels);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        values[k] += kLast ? added[k] : of_row;
      }
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      values[k] = rule.value(values[k]);
    }
    store_pack(static_cast<T*>(call.out) + at * kCount, values);
  }
}

// ---------------------------------------------------------------------------------------------- backward

// One step of the backward pass for a pack: writes dx, and leaves it in `gradients`.
template <class T, int kCount>
__device__ __forceinline__ void backward_pack(
    const GanformerBiasAct& call, const Gate<T>& gate, uint64_t pack, float (&gradients)[kCount]) {
  float results[kCount];
  load_pack(static_cast<const T*>(call.grad) + pack * kCount, gradients);
  load_pack(static_cast<const T*>(call.out) + pack * kCount, results);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    gradients[k] *= gate.factor(results[k]);
  }
  store_pack(static_cast<T*>(call.dx) + pack * kCount, gradients);
}

// Planes are cut into pieces of about 4096 elements; a warp takes one, and leaves the sum of dx and that of dx · noise.
struct PlanePieces {
  unsigned length, a_plane, total;  // length in packs
};

template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    bias_act_backward_planes(GanformerBiasAct call, Packs packs, PlanePieces pieces, float* sums, float* dots) {
  const Gate<T> gate(call.activation, call.gain, call.clamp);
  const unsigned lane = threadIdx.x % kWarp;
  const uint64_t piece = static_cast<uint64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  float sum = 0, dot = 0;
  if (piece < pieces.total) {
    const unsigned plane = static_cast<unsigned>(piece) / pieces.a_plane;
    const unsigned begin = static_cast<unsigned>(piece) % pieces.a_plane * pieces.length;
    const unsigned end = smaller(begin + pieces.length, packs.a_row);
    const T* noise = static_cast<const T*>(call.noise);
    if (noise != nullptr && call.noise_batch > 1) {
      noise += plane / static_cast<unsigned>(call.channels) * static_cast<uint64_t>(call.positions);
    }
    for (unsigned i = begin + lane; i < end; i += kWarp) {
      float gradients[kCount];
      backward_pack<T, kCount>(call, gate, static_cast<uint64_t>(plane) * packs.a_row + i, gradients);
      float drawn[kCount] = {};
      if (dots != nullptr) {
        load_pack(noise + static_cast<uint64_t>(i) * kCount, drawn);
      }
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        sum += gradients[k];
        dot = fmaf(gradients[k], drawn[k], dot);
      }
    }
  }
  sum = warp_sum(sum);
  dot = warp_sum(dot);
  if (lane == 0 && piece < pieces.total) {
    if (sums != nullptr) {
      sums[piece] = sum;
    }
    if (dots != nullptr) {
      dots[piece] = dot;
    }
  }
}

// A block takes `rows` positions and up to 64 packs of channels; its threads stand side by side over the channels, in
// as many rows as there is room for.
struct RowPieces {
  unsigned rows, columns, a_row, chunks;  // positions of a chunk; packs across; blocks across; chunks of positions
};

template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    bias_act_backward_rows(GanformerBiasAct call, Packs packs, RowPieces pieces, float* sums, float* dots) {
  __shared__ float parts[kThreads][kCount];
  __shared__ float part_dots[kWarps];
  const Gate<T> gate(call.activation, call.gain, call.clamp);
  const unsigned chunk = blockIdx.x / pieces.a_row, across = blockIdx.x % pieces.a_row;
  const unsigned abreast = kThreads / pieces.columns;
  const unsigned column = threadIdx.x % pieces.columns, line = threadIdx.x / pieces.columns;
  const unsigned pack = across * pieces.columns + column;
  const unsigned positions = static_cast<unsigned>(call.positions);
  const uint64_t all_rows = packs.total / packs.a_row;
  const uint64_t begin = static_cast<uint64_t>(chunk) * pieces.rows, end = smaller(begin + pieces.rows, all_rows);
  float sum[kCount] = {}, dot = 0;
  if (line < abreast && pack < packs.a_row) {
    for (uint64_t row = begin + line; row < end; row += abreast) {
      float gradients[kCount];
      backward_pack<T, kCount>(call, gate, row * packs.a_row + pack, gradients);
      float total = 0;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        sum[k] += gradients[k];
        total += gradients[k];
      }
      if (dots != nullptr) {
        const unsigned at = static_cast<unsigned>(row);
        const T* noise = static_cast<const T*>(call.noise);
        noise += call.noise_batch > 1 ? row : at % positions;
        dot = fmaf(total, to_float(*noise), dot);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    parts[threadIdx.x][k] = sum[k];
  }
  dot = warp_sum(dot);
  if (threadIdx.x % kWarp == 0) {
    part_dots[threadIdx.x / kWarp] = dot;
  }
  __syncthreads();
  if (sums != nullptr && line == 0 && pack < packs.a_row) {
    for (unsigned other = 1; other < abreast; ++other) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        sum[k] += parts[other * pieces.columns + column][k];
      }
    }
    store_pack(sums + (static_cast<uint64_t>(chunk) * packs.a_row + pack) * kCount, sum);
  }
  if (dots != nullptr && threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) {
      dot += part_dots[w];
    }
    dots[blockIdx.x] = dot;
  }
}

// out = Σ numbers, by one block.
__global__ void __launch_bounds__(kThreads) sum_all(const float* numbers, int64_t count, float* out) {
  __shared__ float parts[kWarps];
  float sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    sum += numbers[i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) {
    parts[threadIdx.x / kWarp] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) {
      sum += parts[w];
    }
    *out = sum;
  }
}

// ---------------------------------------------------------------------------------------------- launches

// How a call is cut up.
struct Shape {
  bool last;
  int pack;  // elements
  Packs packs;

  explicit Shape(const GanformerBiasAct& call) {
    last = call.channels_last != 0 || call.positions == 1;
    const int64_t row = last ? call.channels : call.positions;
    const int size = call.type == kFloat32 ? 4 : 2;
    const bool whole = row * size % 16 == 0 && aligned(call.x) && aligned(call.out) && aligned(call.grad) &&
        aligned(call.dx) && aligned(last ? call.bias : call.noise);
    pack = whole ? 16 / size : 1;
    packs = {static_cast<unsigned>(row / pack),
             static_cast<unsigned>(call.batch * call.channels * call.positions / pack)};
  }
};

PlanePieces plane_pieces(const Shape& shape) {
  const unsigned length = smaller(shape.packs.a_row, 4096u / shape.pack);
  const unsigned a_plane = static_cast<unsigned>(ceil_div(shape.packs.a_row, length));
  return {length, a_plane, shape.packs.total / shape.packs.a_row * a_plane};
}

RowPieces row_pieces(const Shape& shape) {
  const unsigned all_rows = shape.packs.total / shape.packs.a_row;
  const unsigned columns = smaller(shape.packs.a_row, 64u);
  // At most 1024 chunks: their sums must be added up.
  const unsigned rows = larger(32u, static_cast<unsigned>(ceil_div(all_rows, 1024)));
  return {rows, columns, static_cast<unsigned>(ceil_div(shape.packs.a_row, columns)),
          static_cast<unsigned>(ceil_div(all_rows, rows))};
}

template <class T, bool kLast>
int forward(const GanformerBiasAct& call, const Shape& shape, void* stream) {
  // A block's threads take several packs in turn where there are many.
  const int64_t blocks = smaller<int64_t>(ceil_div(shape.packs.total, kThreads), 1 << 20);
  if (shape.pack == 1) {
    return launch(bias_act_forward<T, kLast, 1>, blocks, kThreads, 0, stream, call, shape.packs);
  }
  return launch(bias_act_forward<T, kLast, kPack<T>>, blocks, kThreads, 0, stream, call, shape.packs);
}

struct Partial {
  float *sums, *dots;
  int64_t sums_count, dots_count;

  Partial(const GanformerBiasAct& call, const Shape& shape, Workspace& workspace) {
    if (shape.last) {
      const RowPieces pieces = row_pieces(shape);
      sums_count = static_cast<int64_t>(pieces.chunks) * call.channels;
      dots_count = static_cast<int64_t>(pieces.chunks) * pieces.a_row;
    } else {
      sums_count = dots_count = plane_pieces(shape).total;
    }
    sums = workspace.take(call.dbias == nullptr ? 0 : sums_count);
    dots = workspace.take(call.dstrength == nullptr ? 0 : dots_count);
  }
};

template <class T, int kCount>
int backward(const GanformerBiasAct& call, const Shape& shape, void* stream) {
  Workspace workspace{call.workspace};
  const Partial partial(call, shape, workspace);
  float* sums = call.dbias == nullptr ? nullptr : partial.sums;
  float* dots = call.dstrength == nullptr ? nullptr : partial.dots;
  Parts parts{sums, 0, 0, 1, call.channels, call.channels};
  int status;
  if (shape.last) {
    const RowPieces pieces = row_pieces(shape);
    parts.count = pieces.chunks;
    parts.part_stride = call.channels;
    status = launch(bias_act_backward_rows<T, kCount>, static_cast<int64_t>(pieces.chunks) * pieces.a_row, kThreads, 0,
                    stream, call, shape.packs, pieces, sums, dots);
  } else {
    const PlanePieces pieces = plane_pieces(shape);
    // A channel's pieces lie together within an image: sums over pieces, then over images.
    parts = {sums, call.batch, static_cast<int64_t>(pieces.a_plane) * call.channels, call.channels, 1, pieces.a_plane};
    status = launch(bias_act_backward_planes<T, kCount>, ceil_div(pieces.total, kWarps), kThreads, 0, stream, call,
                    shape.packs, pieces, sums, dots);
    if (status == 0 && sums != nullptr && pieces.a_plane > 1) {
      float* planes = workspace.take(call.batch * call.channels);
      status = launch_sum_parts({sums, pieces.a_plane, 1, 1, 1, 1}, call.batch * call.channels, planes, stream);
      parts = {planes, call.batch, call.channels, call.channels, 1, 1};
    }
  }
  if (status == 0 && sums != nullptr) {
    status = launch_sum_parts(parts, 1, call.dbias, stream);
  }
  if (status == 0 && dots != nullptr) {
    const float* all = dots;
    status = launch(sum_all, 1, kThreads, 0, stream, all, partial.dots_count, call.dstrength);
  }
  return status;
}

}  // namespace
}  // namespace ganformer

using namespace ganformer;

int64_t ganformer_bias_act_workspace(const GanformerBiasAct* call) {
  const Shape shape(*call);
  Workspace workspace{nullptr};
  const Partial partial(*call, shape, workspace);
  workspace.take(call->batch * call->channels);
  return workspace.used;
}

int ganformer_bias_act(const GanformerBiasAct* call, void* stream) {
  const Shape shape(*call);
  return dispatch(call->type, [&](auto type) {
    using T = decltype(type);
    return shape.last ? forward<T, true>(*call, shape, stream) : forward<T, false>(*call, shape, stream);
  });
}

int ganformer_bias_act_backward(const GanformerBiasAct* call, void* stream) {
  const Shape shape(*call);
  return dispatch(call->type, [&](auto type) {
    using T = decltype(type);
    return shape.pack == 1 ? backward<T, 1>(*call, shape, stream) : backward<T, kPack<T>>(*call, shape, stream);
  });
}
