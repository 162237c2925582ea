// Attention-weighted means of the image on CUDA: the centroids of k-means, what duplex gathers. One pass over the image
// whichever way the softmax runs. The contract stands in bipartite_attention.cpp.

#include "cuda_attention_plan.h"

namespace ganformer {
namespace {

// Sums over a block's pixels, one piece a block: [rows][padded], [rows][place], [rows]; where the softmax runs over the
// positions, also the largest score that the weights are relative to, [rows].
struct MeansParts {
  float *content, *placed, *total, *top;
  Ranges ranges;
};

// The larger of two, or NaN.
__device__ __forceinline__ float top_of(float a, float b) {
  return a != a || a > b ? a : b;
}

template <class T, bool kLast, int kPixels>
__global__ void __launch_bounds__(kThreads, kBlocks<kLast, kPixels>)
    means_forward(Problem a, const T* x, MeansParts parts) {
  using TileType = Tile<T, kLast, kPixels>;
  constexpr int kTile = TileType::pixels;
  GANFORMER_SHARED(memory);
  Pieces pieces{memory};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t b = blockIdx.x / parts.ranges.count;
  const int64_t start = blockIdx.x % parts.ranges.count * parts.ranges.length;
  const int64_t end = smaller(start + parts.ranges.length, a.pixels);
  TileType tile(pieces.take(TileType::bytes(a.chunk)));
  float* lines = kPixels == 1 && a.spilled != nullptr ? a.spilled + blockIdx.x * a.spilled_step
                                      : pieces.line(a.rows * (kTile + 3));
  // Scores, then weights; of each row the largest score so far, the sum of the weights relative to it, and what the
  // sums so far must be multiplied with when a larger one has come.
  float *scores = lines, *top = lines + a.rows * kTile, *total = top + a.rows, *keep = total + a.rows;
  const T* image = x + b * a.channels * a.pixels;
  float* content = parts.content + blockIdx.x * (a.rows * a.padded);
  float* placed = parts.placed + blockIdx.x * (a.rows * static_cast<int64_t>(a.place));

  for (int64_t pixel = start; pixel < end; pixel += kTile) {
    const int count = static_cast<int>(smaller<int64_t>(kTile, end - pixel));
    const Places places = a.places(b, pixel, count);
    const bool first = pixel == start;
    for (int64_t c = 0; c == 0 || c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      tile.fill(image, cut);
      copies_done();
      __syncthreads();
      Products todo{a.rows, a.keys_of(b), false, nullptr, a.key_bias + b * a.key_bias_step, {}, scores, c == 0};
      todo.rows.data += c;
      if (c == 0) {
        todo.places = places;
      }
      row_products<kPixels, false, TileType>(todo, Plain<TileType>{tile}, cut.padded, cut.width, {}, {false, false});
    }
    if (a.over_positions) {
      for (int r = warp; r < a.rows; r += kWarps) {
        float* row = scores + r * kTile;
        float largest = first ? -INFINITY : top[r];
        const float before = largest;
        for (int p = lane; p < count; p += kWarp) {
          largest = top_of(largest, row[p]);
        }
        for (int step = kWarp / 2; step > 0; step /= 2) {
          largest = top_of(largest, __shfl_xor_sync(kAllLanes, largest, step));
        }
        const bool nothing = largest == -INFINITY;
        float sum = 0;
        for (int p = lane; p < kTile; p += kWarp) {
          const float weight = p >= count || nothing ? 0 : expf(row[p] - largest);
          row[p] = weight;
          sum += weight;
        }
        sum = warp_sum(sum);
        if (lane == 0) {
          const float factor = first || nothing ? 1 : expf(before - largest);
          top[r] = largest;
          keep[r] = factor;
          total[r] = first ? sum : fmaf(total[r], factor, sum);
        }
      }
    } else {
      for (int i = threadIdx.x; i < kTile * a.heads; i += kThreads) {
        const int p = i % kTile;
        float* own = scores + i / kTile * a.components * kTile + p;
        if (p < count) {
          softmax(own, a.components, kTile);
        } else {
          for (int m = 0; m < a.components; ++m) {
            own[m * kTile] = 0;
          }
        }
      }
    }
    __syncthreads();
    const float* kept = a.over_positions ? keep : nullptr;
    if (!a.over_positions) {
      add_places({scores, a.rows, total, 1, first, nullptr, false}, no_places(count), kTile);
    }
    if (a.place > 0) {
      add_places({scores, a.rows, placed, a.place, first, kept, false}, places, kTile);
    }
    for (int64_t c = 0; c == 0 || c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      if (!a.resident()) {
        tile.fill(image, cut);
        copies_done();
        __syncthreads();
      }
      add_rows<kTile>({scores, a.rows, content + c, a.padded, first, kept, false}, Plain<TileType>{tile}, cut.width);
      __syncthreads();
    }
  }
  for (int r = threadIdx.x; r < a.rows; r += kThreads) {
    parts.total[blockIdx.x * static_cast<int64_t>(a.rows) + r] = total[r];
    if (a.over_positions) {
      parts.top[blockIdx.x * static_cast<int64_t>(a.rows) + r] = top[r];
    }
  }
}

// Brings a row's pieces, each relative to its own largest score, together: a block for an image and row.
__global__ void __launch_bounds__(kThreads)
    merge_means(Problem a, MeansParts parts, float* content, float* placed, float* total, float* logsumexp) {
  const int64_t b = blockIdx.x / a.rows, r = blockIdx.x % a.rows, first = b * parts.ranges.count;
  float largest = -INFINITY, sum = 0;
  for (int64_t i = 0; i < parts.ranges.count; ++i) {
    largest = top_of(largest, parts.top[(first + i) * a.rows + r]);
  }
  const auto factor = [&](int64_t i) {
    const float own = parts.top[(first + i) * a.rows + r];
    return own == -INFINITY ? 0 : expf(own - largest);
  };
  for (int64_t i = 0; i < parts.ranges.count; ++i) {
    sum = fmaf(factor(i), parts.total[(first + i) * a.rows + r], sum);
  }
  if (threadIdx.x == 0) {
    total[blockIdx.x] = sum / sum;  // 1, or NaN
    logsumexp[blockIdx.x] = largest + logf(sum);
  }
  for (int64_t column = threadIdx.x; column < a.channels + a.place; column += kThreads) {
    const bool is_content = column < a.channels;
    const float* from = is_content ? parts.content + r * a.padded + column
                                   : parts.placed + r * a.place + (column - a.channels);
    const int64_t step = a.rows * (is_content ? a.padded : a.place);
    float value = 0;
    for (int64_t i = 0; i < parts.ranges.count; ++i) {
      value = fmaf(factor(i), from[(first + i) * step], value);
    }
    float* to = is_content ? content + blockIdx.x * a.channels + column
                           : placed + blockIdx.x * static_cast<int64_t>(a.place) + (column - a.channels);
    *to = value / sum;
  }
}

// ---------------------------------------------------------------------------------------------- backward

struct MeansBackward {
  Rows dcontent, dplaced;  // [batch][rows]; widths padded
  const float *dtotal;     // or, over the positions, null
  const float *logsumexp, *inner;  // over the positions: of the forward pass, and Σ gradient · result; [batch][rows]
  float *keys, *key_bias, *position_keys;  // a piece a block
  float *scores, *weights;                 // [batch][rows][pixels], or null
  Ranges ranges;
};

template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads, kBlocks<kLast, 1>)
    means_backward(Problem a, const T* x, T* dx, MeansBackward to) {
  using TileType = Tile<T, kLast, 1>;
  constexpr int kTile = TileType::pixels;
  GANFORMER_SHARED(memory);
  Pieces pieces{memory};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t b = blockIdx.x / to.ranges.count;
  const int64_t start = blockIdx.x % to.ranges.count * to.ranges.length;
  const int64_t end = smaller(start + to.ranges.length, a.pixels);
  TileType tile(pieces.take(TileType::bytes(a.chunk)));
  const int buffer = a.rows * kTile;
  float* weights = a.spilled != nullptr ? a.spilled + blockIdx.x * a.spilled_step : pieces.line(2 * buffer);
  float* gradients = weights + buffer;
  const T* image = x + b * a.channels * a.pixels;
  T* result = dx + b * a.channels * a.pixels;
  const Rows keys = a.keys_of(b);
  const Rows dcontent{to.dcontent.data + b * a.rows * a.padded, a.padded};
  const float* dtotal = to.dtotal == nullptr ? nullptr : to.dtotal + b * a.rows;
  float* keys_part = to.keys + blockIdx.x * (a.rows * a.padded);

  for (int64_t pixel = start; pixel < end; pixel += kTile) {
    const int count = static_cast<int>(smaller<int64_t>(kTile, end - pixel));
    const Places places = a.places(b, pixel, count);
    const Plain<TileType> plain{tile};
    for (int64_t c = 0; c == 0 || c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      tile.fill(image, cut);
      copies_done();
      __syncthreads();
      // The scores again, and the gradients of the probabilities.
#pragma unroll 1
      for (int i = 0; i < 2; ++i) {
        Products todo{a.rows, {i == 0 ? keys.data + c : dcontent.data + c, a.padded}, false, nullptr,
                      i == 0 ? a.key_bias + b * a.key_bias_step : dtotal, {}, weights + i * buffer, c == 0};
        if (c == 0) {
          todo.places = places;
          if (i == 1) {
            todo.places.rows = {to.dplaced.data + b * a.rows * a.place_padded, a.place_padded};
          }
        }
        row_products<1, false, TileType>(todo, plain, cut.padded, cut.width, {}, {false, false});
      }
    }
    if (a.over_positions) {
      for (int i = threadIdx.x; i < buffer; i += kThreads) {
        const int64_t row = b * a.rows + i / kTile;
        const float weight = i % kTile < count ? expf(weights[i] - to.logsumexp[row]) : 0;
        gradients[i] = i % kTile < count ? weight * (gradients[i] - to.inner[row]) : 0;
        weights[i] = weight;
      }
    } else {
      for (int i = threadIdx.x; i < kTile * a.heads; i += kThreads) {
        const int p = i % kTile, from = i / kTile * a.components * kTile + p, past = from + a.components * kTile;
        softmax(weights + from, a.components, kTile);
        float total = 0;
        for (int at = from; at < past; at += kTile) {
          total = fmaf(weights[at], gradients[at], total);
        }
        for (int at = from; at < past; at += kTile) {
          gradients[at] = p < count ? weights[at] * (gradients[at] - total) : 0;
          weights[at] = p < count ? weights[at] : 0;
        }
      }
    }
    __syncthreads();

    const bool first = pixel == start;
    float* biases = to.key_bias + blockIdx.x * static_cast<int64_t>(a.rows);
    add_places({gradients, a.rows, biases, 1, first, nullptr, false}, no_places(count), kTile);
    if (a.place > 0) {
      float* part = to.position_keys + blockIdx.x * (a.rows * static_cast<int64_t>(a.place));
      add_places({gradients, a.rows, part, a.place, first, nullptr, false}, places, kTile);
    }
    if (to.scores != nullptr) {
      for (int i = threadIdx.x; i < buffer; i += kThreads) {
        const int64_t at = (b * a.rows + i / kTile) * a.pixels + pixel + i % kTile;
        if (i % kTile < count) {
          to.scores[at] = gradients[i];
          to.weights[at] = weights[i];
        }
      }
    }
    for (int64_t c = 0; c == 0 || c < a.channels; c += a.chunk) {
      const Cut cut = a.cut(c, pixel, end, kTile);
      if (!a.resident()) {
        tile.fill(image, cut);
        copies_done();
        __syncthreads();
      }
      add_rows<kTile>({gradients, a.rows, keys_part + c, a.padded, first, nullptr, false}, plain, cut.width);
      __syncthreads();
      for (int g = warp * kGroup; g < cut.padded; g += kWarps * kGroup) {
        float sums[1][kGroup] = {};
        combine<1, TileType>(gradients, a.rows, keys, c + g, lane, sums);
        combine<1, TileType>(weights, a.rows, dcontent, c + g, lane, sums);
        if (kLast) {
          tile.write(g, lane, sums);
        } else {
          write_planes<T, 1, TileType>(result, cut, g, lane, sums);
        }
      }
      if (kLast) {
        __syncthreads();
        tile.drain(result, cut);
      }
      __syncthreads();
    }
  }
}

// out[row] = Σ over both widths of gradient · result: a warp for a row.
__global__ void __launch_bounds__(kThreads)
    inner_products(int64_t rows, const float* dcontent, const float* content, int64_t channels, const float* dplaced,
                   const float* placed, int64_t place, float* out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  float sum = 0;
  if (row < rows) {
    for (int64_t c = lane; c < channels; c += kWarp) {
      sum = fmaf(dcontent[row * channels + c], content[row * channels + c], sum);
    }
    for (int64_t q = lane; q < place; q += kWarp) {
      sum = fmaf(dplaced[row * place + q], placed[row * place + q], sum);
    }
  }
  sum = warp_sum(sum);
  if (row < rows && lane == 0) {
    out[row] = sum;
  }
}

// ---------------------------------------------------------------------------------------------- launches

void forward(const GanformerAttention& call, Run& run) {
  Problem a = problem_of(call, run);
  const Ranges ranges = ranges_of(call);
  const int64_t blocks = a.batch * ranges.count, rows = a.rows;
  MeansParts parts{};
  parts.ranges = ranges;
  parts.content = run.workspace.take(blocks * rows * a.padded);
  parts.placed = run.workspace.take(blocks * rows * a.place);
  parts.total = run.workspace.take(blocks * rows);
  if (a.over_positions) {
    parts.top = run.workspace.take(blocks * rows);
  }
  with_types(call, [&](auto type, auto last) {
    using T = decltype(type);
    constexpr bool kLast = decltype(last)::value != 0;
    // Three numbers of a row lie beside its scores: room for one row more for each 32 pixels.
    const Plan plan = plan_for<T, kLast>(a, {1, rows + ceil_div(3 * rows, kWarp), 0, 2});
    a.chunk = plan.chunk;
    if (plan.spills) {
      a.spilled_step = round_up(rows * (kWarp + 3), 4);  // four at a time are read
      a.spilled = run.workspace.take(blocks * a.spilled_step);
    }
    const auto kernel = plan.pixels == 2 ? means_forward<T, kLast, 2> : means_forward<T, kLast, 1>;
    run.start(kernel, blocks, plan.shared, a, static_cast<const T*>(call.x), parts);
  });
  if (a.over_positions) {
    run.start(merge_means, a.batch * rows, 0, a, parts, call.content, call.placed, call.total, call.logsumexp);
  } else {
    const int64_t n = ranges.count;
    run.add_up({parts.content, n, rows * a.padded, rows, a.channels, a.padded}, a.batch, call.content);
    run.add_up({parts.placed, n, rows * a.place, rows, a.place, a.place}, a.batch, call.placed);
    run.add_up({parts.total, n, rows, rows, 1, 1}, a.batch, call.total);
  }
}

void backward(const GanformerAttention& call, Run& run) {
  Problem a = problem_of(call, run);
  const Ranges ranges = ranges_of(call);
  const int64_t blocks = a.batch * ranges.count, rows = a.rows;
  MeansBackward to{};
  to.ranges = ranges;
  to.dcontent = {run.padded(call.dcontent, a.batch * rows, a.channels), a.padded};
  to.dplaced = {run.padded(call.dplaced, a.batch * rows, a.place), a.place_padded};
  to.keys = run.workspace.take(blocks * rows * a.padded);
  to.key_bias = run.workspace.take(blocks * rows);
  to.position_keys = run.workspace.take(blocks * rows * a.place);
  const bool positions = call.need_positions && a.place > 0;
  if (positions) {
    to.scores = run.workspace.take(a.batch * rows * a.pixels);
    to.weights = run.workspace.take(a.batch * rows * a.pixels);
  }
  if (a.over_positions) {
    float* inner = run.workspace.take(a.batch * rows);
    run.start(inner_products, ceil_div(a.batch * rows, kWarps), 0, a.batch * rows, call.dcontent, call.content,
              a.channels, call.dplaced, call.placed, static_cast<int64_t>(a.place), inner);
    to.inner = inner;
    to.logsumexp = call.logsumexp;
  } else {
    to.dtotal = call.dtotal;
  }
  with_types(call, [&](auto type, auto last) {
    using T = decltype(type);
    constexpr bool kLast = decltype(last)::value != 0;
    const Plan plan = plan_for<T, kLast>(a, {1, 2 * rows, 0, 1});
    a.chunk = plan.chunk;
    if (plan.spills) {
      a.spilled_step = 2 * rows * kWarp;
      a.spilled = run.workspace.take(blocks * a.spilled_step);
    }
    run.start(means_backward<T, kLast>, blocks, plan.shared, a, static_cast<const T*>(call.x),
              static_cast<T*>(call.dx), to);
  });
  const auto add_up = [&](const float* from, int64_t width, int64_t padded, int batch, float* out) {
    const int64_t outer = batch > 1 || a.batch == 0 ? batch : 1;
    run.add_up({from, outer > 1 ? ranges.count : blocks, rows * padded, rows, width, padded}, outer, out);
  };
  add_up(to.keys, a.channels, a.padded, call.key_batch, call.dkeys);
  add_up(to.key_bias, 1, 1, call.key_bias_batch, call.dkey_bias);
  add_up(to.position_keys, a.place, a.place, call.position_key_batch, call.dposition_keys);
  if (positions) {
    const PlaceGradient first{to.scores, a.position_keys, a.position_keys_step};
    const PlaceGradient second{to.weights, to.dplaced, rows * a.place_padded};
    run.start(positions_gradient, ceil_div(a.pixels * a.place, kThreads), 0, first, second, a.batch, a.rows, a.pixels,
              a.place, call.dpositions);
  }
}

}  // namespace
}  // namespace ganformer

using namespace ganformer;

int64_t ganformer_attention_means_workspace(const GanformerAttention* call) {
  return workspace_of(*call, forward);
}

int ganformer_attention_means(const GanformerAttention* call, void* stream) {
  return carry_out(*call, stream, forward);
}

int64_t ganformer_attention_means_backward_workspace(const GanformerAttention* call) {
  return workspace_of(*call, backward);
}

int ganformer_attention_means_backward(const GanformerAttention* call, void* stream) {
  return carry_out(*call, stream, backward);
}
