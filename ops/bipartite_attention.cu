// Bipartite attention on CUDA: one pass over the image, and one for the gradients. The contract stands in
// bipartite_attention.cpp, the parts of the kernels in cuda_attention.h.

#include "cuda_attention_plan.h"

namespace ganformer {
namespace {

// Scores of a tile to probabilities, a thread for a pixel and head; zeros where there are no pixels. Cells that dropout
// leaves out become 0 if `applied` (and the others are divided by what is left), or else negative.
template <int kTile>
__device__ __forceinline__ void probabilities(
    const Problem& a, float* scores, int64_t image, int64_t pixel, int count, bool applied) {
  for (int i = threadIdx.x; i < kTile * a.heads; i += kThreads) {
    const int p = i % kTile, head = i / kTile;
    float* own = scores + head * a.components * kTile + p;
    if (p >= count) {
      for (int m = 0; m < a.components; ++m) {
        own[m * kTile] = 0;
      }
      continue;
    }
    softmax(own, a.components, kTile);
    if (a.dropout.seed != nullptr) {
      const uint32_t row = a.dropout.row(image * a.heads + head, pixel + p);
      for (int m = 0; m < a.components; ++m) {
        const float value = own[m * kTile];
        const float dropped = applied ? 0 : -value;
        own[m * kTile] = a.dropout.keeps(row, m) ? (applied ? value * a.dropout.scale : value) : dropped;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- forward

template <class T, bool kLast, int kPixels>
__global__ void __launch_bounds__(kThreads, kBlocks<kLast, kPixels>) attention_forward(Problem a, const T* x, T* out) {
  using TileType = Tile<T, kLast, kPixels>;
  constexpr int kTile = TileType::pixels;
  GANFORMER_SHARED(memory);
  Pieces pieces{memory};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t tiles = ceil_div(a.pixels, kTile), b = blockIdx.x / tiles, pixel = blockIdx.x % tiles * kTile;
  TileType tile(pieces.take(TileType::bytes(a.chunk)));
  const Statistics all{pieces.line(kTile), pieces.line(kTile), pieces.line(kTile)};
  // Only tiles of 32 pixels may spill: the kernel for larger ones knows that it reads shared memory.
  float* scores = kPixels == 1 && a.spilled != nullptr ? a.spilled + blockIdx.x * a.spilled_step
                                                       : pieces.line(a.rows * kTile);
  const T* image = x + b * a.channels * a.pixels;
  T* result = out + b * a.channels * a.pixels;

  for (int64_t c = 0; c < a.channels; c += a.chunk) {
    const Cut cut = a.cut(c, pixel, a.pixels, kTile);
    tile.fill(image, cut);
    copies_done();
    __syncthreads();
    Products todo{a.rows, a.keys_of(b), false, nullptr, a.key_bias + b * a.key_bias_step, {}, scores, c == 0};
    todo.rows.data += c;
    if (c == 0) {
      todo.places = a.places(b, pixel, cut.count);
    }
    row_products<kPixels, true, TileType>(todo, Plain<TileType>{tile}, cut.padded, cut.width, all, a.needs());
  }
  const int count = static_cast<int>(smaller<int64_t>(kTile, a.pixels - pixel));
  probabilities<kTile>(a, scores, b, pixel, count, true);
  if (threadIdx.x < kTile && a.layer) {
    finish_statistics(all, a.needs(), a.channels, threadIdx.x);
  }
  __syncthreads();

  const Rows values{a.values.data + b * a.values_step, a.values.stride};
  const Rows shifts{values.data + a.padded, a.values.stride};
  const float* bias = a.value_bias + b * a.value_bias_step;
  for (int64_t c = 0; c < a.channels; c += a.chunk) {
    const Cut cut = a.cut(c, pixel, a.pixels, kTile);
    if (!a.resident()) {
      tile.fill(image, cut);
      copies_done();
      __syncthreads();
    }
    for (int g = warp * kGroup; g < cut.padded; g += kWarps * kGroup) {
      float features[kPixels][kGroup], found[kPixels][kGroup];
      tile.read(g, lane, features);
      if (a.layer) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const int p = TileType::pixel(lane, j);
          const float mean = all.mean[p], scale = all.square[p];
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            features[j][k] = (features[j][k] - mean) * scale;
          }
        }
      }
      start_sums(bias, c + g, found);
      combine<kPixels, TileType>(scores, a.rows, values, c + g, lane, found);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          features[j][k] = a.integration == kAdd ? features[j][k] + found[j][k] : features[j][k] * found[j][k];
        }
      }
      if (a.integration == kBoth) {
        start_sums(bias + a.padded, c + g, found);
        combine<kPixels, TileType>(scores, a.rows, shifts, c + g, lane, found);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            features[j][k] += found[j][k];
          }
        }
      }
      if (kLast) {
        tile.write(g, lane, features);
      } else {
        write_planes<T, kPixels, TileType>(result, cut, g, lane, features);
      }
    }
    if (kLast) {
      __syncthreads();
      tile.drain(result, cut);
    }
    __syncthreads();
  }
}

// ---------------------------------------------------------------------------------------------- backward

// Sums over a block's pixels, one piece a block: [rows][padded], [rows], [rows][place], [rows + 1][values].
struct BackwardParts {
  float *keys, *key_bias, *position_keys, *values;
  float* scores;  // gradient of the scores, [batch][rows][pixels], or null
  Ranges ranges;
};

// Gradients of the probabilities to those of the scores, and the probabilities as they were applied; both in place.
template <int kTile>
__device__ __forceinline__ void softmax_backward(
    const Problem& a, float* weights, float* gradients, const float* more, int count) {
  for (int i = threadIdx.x; i < kTile * a.heads; i += kThreads) {
    const int p = i % kTile, head = i / kTile;
    const int from = head * a.components * kTile + p, end = from + a.components * kTile;
    float total = 0;
    for (int at = from; at < end; at += kTile) {
      const float gradient = more == nullptr ? gradients[at] : gradients[at] + more[at];
      const float here = weights[at] < 0 ? 0 : gradient * a.dropout.scale;
      gradients[at] = here;
      total = fmaf(fabsf(weights[at]), here, total);
    }
    for (int at = from; at < end; at += kTile) {
      const float weight = weights[at];
      gradients[at] = p < count ? fabsf(weight) * (gradients[at] - total) : 0;
      weights[at] = weight < 0 ? 0 : weight * a.dropout.scale;
    }
  }
}

template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads, kBlocks<kLast, 1>)
    attention_backward(Problem a, const T* x, const T* grad, T* dx, BackwardParts parts) {
  using TileType = Tile<T, kLast, 1>;
  constexpr int kTile = TileType::pixels;
  GANFORMER_SHARED(memory);
  Pieces pieces{memory};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t b = blockIdx.x / parts.ranges.count;
  const int64_t start = blockIdx.x % parts.ranges.count * parts.ranges.length;
  const int64_t end = smaller(start + parts.ranges.length, a.pixels);
  TileType features(pieces.take(TileType::bytes(a.chunk)));
  TileType gradient(pieces.take(TileType::bytes(a.chunk)));
  const Statistics all{pieces.line(kTile), pieces.line(kTile), pieces.line(kTile)};
  float *mean_gradient = pieces.line(kTile), *slope = pieces.line(kTile);  // of the features' normalisation
  const int one_buffer = (a.rows + 1) * kTile;
  const bool both = a.integration == kBoth, adds = a.integration == kAdd;
  float* buffers = a.spilled != nullptr ? a.spilled + blockIdx.x * a.spilled_step
                                        : pieces.line(one_buffer * (both ? 4 : 2));
  // Probabilities; gradients from the scales (from the shifts, if they are all); what else `both` needs.
  float *weights = buffers, *gradients = buffers + one_buffer;
  float *of_shifts = gradients + one_buffer, *of_means = of_shifts + one_buffer;

  const T* image = x + b * a.channels * a.pixels;
  const T* image_gradient = grad + b * a.channels * a.pixels;
  T* result = dx + b * a.channels * a.pixels;
  const Rows keys = a.keys_of(b);
  const Rows values{a.values.data + b * a.values_step, a.values.stride};
  const Rows shifts{values.data + a.padded, a.values.stride};
  const float* bias = a.value_bias + b * a.value_bias_step;
  float* keys_part = parts.keys + blockIdx.x * (a.rows * a.padded);
  float* values_part = parts.values + blockIdx.x * ((a.rows + 1) * a.values.stride);

  for (int64_t pixel = start; pixel < end; pixel += kTile) {
    const int count = static_cast<int>(smaller<int64_t>(kTile, end - pixel));
    const Places places = a.places(b, pixel, count);
    const auto reads = [&](Reads what) { return Chosen<TileType>{features, gradient, all.mean, all.square, what}; };

    // The probabilities again.
    for (int64_t c = 0; c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      features.fill(image, cut);
      if (a.resident()) {
        gradient.fill(image_gradient, cut);
      }
      copies_done();
      __syncthreads();
      Products todo{a.rows, keys, false, nullptr, a.key_bias + b * a.key_bias_step, {}, weights, c == 0};
      todo.rows.data += c;
      if (c == 0) {
        todo.places = places;
      }
      row_products<1, true, TileType>(todo, Plain<TileType>{features}, cut.padded, cut.width, all, a.needs());
    }
    probabilities<kTile>(a, weights, b, pixel, count, false);
    if (threadIdx.x < kTile) {
      if (a.layer) {
        finish_statistics(all, a.needs(), a.channels, threadIdx.x);
      } else {
        all.mean[threadIdx.x] = 0;
        all.square[threadIdx.x] = 1;
      }
    }
    __syncthreads();

    // Their gradients. With the values' bias as a row more, Σ_rows weight · gradient is what the normalisation's
    // gradient needs: Σ_channels of the modulated features' gradient, times the features or not.
    for (int64_t c = 0; c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      if (!a.resident()) {
        features.fill(image, cut);
        gradient.fill(image_gradient, cut);
        copies_done();
        __syncthreads();
      }
      // From the scales (or the shifts, if they are all); for `both` also from the shifts, and from the scales again.
      const int products = !both ? 1 : a.layer ? 3 : 2;
#pragma unroll 1
      for (int i = 0; i < products; ++i) {
        const bool scales = i != 1;
        const Products todo{a.rows, {scales ? values.data + c : shifts.data + c, values.stride}, a.layer && scales,
                            adds ? nullptr : bias + c, nullptr, {}, buffers + (i + 1) * one_buffer, c == 0};
        const Reads what = i == 0 && !adds ? Reads::modulation : Reads::gradient;
        row_products<1, false, TileType>(todo, reads(what), cut.padded, cut.width, all, {false, false});
      }
    }
    if (threadIdx.x < kTile) {
      const int p = threadIdx.x, last = a.rows * kTile + p;
      float sum = 0, product = 0;
      if (a.layer) {
        sum = adds ? gradients[last] : both ? of_means[last] : 0;
        product = adds ? 0 : gradients[last];
        for (int at = p; at < last && !adds; at += kTile) {
          const float weight = weights[at] < 0 ? 0 : weights[at] * a.dropout.scale;
          product = fmaf(weight, gradients[at], product);
          sum = both ? fmaf(weight, of_means[at], sum) : 0;
        }
      }
      mean_gradient[p] = sum / static_cast<float>(a.channels);
      slope[p] = product / static_cast<float>(a.channels);
    }
    __syncthreads();
    softmax_backward<kTile>(a, weights, gradients, both ? of_shifts : nullptr, count);
    __syncthreads();

    // Sums over the pixels, and the gradient of the features.
    const bool first = pixel == start;
    float* biases = parts.key_bias + blockIdx.x * static_cast<int64_t>(a.rows);
    add_places({gradients, a.rows, biases, 1, first, nullptr, false}, no_places(count), kTile);
    if (a.place > 0) {
      float* part = parts.position_keys + blockIdx.x * (a.rows * static_cast<int64_t>(a.place));
      add_places({gradients, a.rows, part, a.place, first, nullptr, false}, places, kTile);
    }
    if (parts.scores != nullptr) {
      for (int i = threadIdx.x; i < a.rows * kTile; i += kThreads) {
        const int r = i / kTile, p = i % kTile;
        if (p < count) {
          parts.scores[(b * a.rows + r) * a.pixels + pixel + p] = gradients[i];
        }
      }
    }
    for (int64_t c = 0; c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      if (!a.resident()) {
        features.fill(image, cut);
        gradient.fill(image_gradient, cut);
        copies_done();
        __syncthreads();
      }
      const int sums = both ? 3 : 2;
#pragma unroll 1
      for (int i = 0; i < sums; ++i) {
        Sums todo{gradients, a.rows, keys_part + c, a.padded, first, nullptr, false};
        Reads what = Reads::features;
        if (i > 0) {
          todo = {weights, a.rows, values_part + c + (i == 2 ? a.padded : 0), a.values.stride, first, nullptr, true};
          what = i == 2 || adds ? Reads::gradient : Reads::modulation;
        }
        add_rows<kTile>(todo, reads(what), cut.width);
      }
      __syncthreads();
      for (int g = warp * kGroup; g < cut.padded; g += kWarps * kGroup) {
        float values_of_x[1][kGroup], here[1][kGroup], sums[1][kGroup];
        features.read(g, lane, values_of_x);
        gradient.read(g, lane, here);
        if (!adds) {
          start_sums(bias, c + g, sums);
          combine<1, TileType>(weights, a.rows, values, c + g, lane, sums);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            here[0][k] *= sums[0][k];
          }
        }
        const float mean = all.mean[lane], scale = all.square[lane];
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          const float normal = (values_of_x[0][k] - mean) * scale;
          here[0][k] = scale * (here[0][k] - mean_gradient[lane] - normal * slope[lane]);
        }
        combine<1, TileType>(gradients, a.rows, keys, c + g, lane, here);
        if (kLast) {
          gradient.write(g, lane, here);
        } else {
          write_planes<T, 1, TileType>(result, cut, g, lane, here);
        }
      }
      if (kLast) {
        __syncthreads();
        gradient.drain(result, cut);
      }
      __syncthreads();
    }
  }
}

// ---------------------------------------------------------------------------------------------- launches

void forward(const GanformerAttention& call, Run& run) {
  Problem a = problem_of(call, run);
  with_types(call, [&](auto type, auto last) {
    using T = decltype(type);
    constexpr bool kLast = decltype(last)::value != 0;
    const Plan plan = plan_for<T, kLast>(a, {1, a.rows, 3, 2});
    const int tile = plan.pixels * kWarp;
    const int64_t blocks = a.batch * ceil_div(a.pixels, tile);
    a.chunk = plan.chunk;
    if (plan.spills) {
      a.spilled_step = static_cast<int64_t>(a.rows) * tile;
      a.spilled = run.workspace.take(blocks * a.spilled_step);
    }
    const auto kernel = plan.pixels == 2 ? attention_forward<T, kLast, 2> : attention_forward<T, kLast, 1>;
    run.start(kernel, blocks, plan.shared, a, static_cast<const T*>(call.x), static_cast<T*>(call.out));
  });
}

void backward(const GanformerAttention& call, Run& run) {
  Problem a = problem_of(call, run);
  const Ranges ranges = ranges_of(call);
  const int64_t blocks = a.batch * ranges.count, rows = a.rows, values = a.values.stride;
  const int parts = halves(call);
  BackwardParts to{};
  to.ranges = ranges;
  to.keys = run.workspace.take(blocks * rows * a.padded);
  to.key_bias = run.workspace.take(blocks * rows);
  to.position_keys = run.workspace.take(blocks * rows * a.place);
  to.values = run.workspace.take(blocks * (rows + 1) * values);
  const bool positions = call.need_positions && a.place > 0;
  if (positions) {
    to.scores = run.workspace.take(a.batch * rows * a.pixels);
  }
  with_types(call, [&](auto type, auto last) {
    using T = decltype(type);
    constexpr bool kLast = decltype(last)::value != 0;
    const int64_t score_rows = (rows + 1) * (parts == 2 ? 4 : 2);
    const Plan plan = plan_for<T, kLast>(a, {2, score_rows, 5, 1});
    a.chunk = plan.chunk;
    if (plan.spills) {
      a.spilled_step = score_rows * kWarp;
      a.spilled = run.workspace.take(blocks * a.spilled_step);
    }
    run.start(attention_backward<T, kLast>, blocks, plan.shared, a, static_cast<const T*>(call.x),
              static_cast<const T*>(call.grad), static_cast<T*>(call.dx), to);
  });
  // One sum over all images where they share a tensor, else one for each.
  const auto add_up = [&](const float* from, int64_t stride, int64_t lines, int64_t width, int64_t padded, int batch,
                          float* out) {
    const int64_t outer = batch > 1 || a.batch == 0 ? batch : 1;
    run.add_up({from, outer > 1 ? ranges.count : blocks, stride, lines, width, padded}, outer, out);
  };
  const int64_t value_part = (rows + 1) * values;
  add_up(to.keys, rows * a.padded, rows, a.channels, a.padded, call.key_batch, call.dkeys);
  add_up(to.key_bias, rows, rows, 1, 1, call.key_bias_batch, call.dkey_bias);
  add_up(to.position_keys, rows * a.place, rows, a.place, a.place, call.position_key_batch, call.dposition_keys);
  add_up(to.values, value_part, rows * parts, a.channels, a.padded, call.value_batch, call.dvalues);
  const float* bias = to.values == nullptr ? nullptr : to.values + rows * values;
  add_up(bias, value_part, parts, a.channels, a.padded, call.value_bias_batch, call.dvalue_bias);
  if (positions) {
    const PlaceGradient first{to.scores, a.position_keys, a.position_keys_step};
    run.start(positions_gradient, ceil_div(a.pixels * a.place, kThreads), 0, first, PlaceGradient{}, a.batch, a.rows,
              a.pixels, a.place, call.dpositions);
  }
}

}  // namespace
}  // namespace ganformer

using namespace ganformer;

int64_t ganformer_attention_workspace(const GanformerAttention* call) {
  return workspace_of(*call, forward);
}

int ganformer_attention(const GanformerAttention* call, void* stream) {
  return carry_out(*call, stream, forward);
}

int64_t ganformer_attention_backward_workspace(const GanformerAttention* call) {
  return workspace_of(*call, backward);
}

int ganformer_attention_backward(const GanformerAttention* call, void* stream) {
  return carry_out(*call, stream, backward);
}

const char* ganformer_cuda_error(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}
