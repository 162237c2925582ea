// Bipartite attention: every position gathers from m components and is changed by what it finds. One pass over x,
// forward and backward; the probabilities are computed anew in the backward pass, so that only x and m-sized tensors
// are kept. ganformer_cli/operators/attention.py says what is computed, and has it in plain torch.
#include "bipartite_attention.h"

namespace ganformer {
namespace {

const char* const kName = "bipartite_attention";

// The result of R pixels, channels `begin` to `end`. S is the stride of the weights, where that is known, or 0.
// With `streams`, it goes past the caches.
template <class V, Integration I, int R, int S>
GANFORMER_NOINLINE void expand(
    const typename V::Scalar* weights, int64_t weights_stride, const Values<V>& values, int64_t b,
    const typename V::Scalar* rows, const typename V::Scalar* mean, const typename V::Scalar* factor, int64_t channels,
    int64_t begin, int64_t end, typename V::Scalar* to, bool streams, Ahead& ahead) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const int64_t stride = S > 0 ? S : weights_stride;
  const T *scales = nullptr, *shifts = nullptr, *scale_bias = nullptr, *shift_bias = nullptr;
  if constexpr (I != Integration::add) {
    scales = values.scale.item(b);
    scale_bias = values.scale_bias.item(b);
  }
  if constexpr (I != Integration::mul) {
    shifts = values.shift.item(b);
    shift_bias = values.shift_bias.item(b);
  }
  for (int64_t channel = begin; channel < end; channel += W) {
    V scale[R][1], shift[R][1];
    ahead.fetch(4);
    if constexpr (I != Integration::add) {
      const V start = V::load(scale_bias + channel);
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        scale[r][0] = start;
      }
      multiply_add<V, R, 1>(scale, weights, stride, 1, scales + channel * values.rows, W, values.rows);
    }
    if constexpr (I != Integration::mul) {
      const V start = V::load(shift_bias + channel);
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        shift[r][0] = start;
      }
      multiply_add<V, R, 1>(shift, weights, stride, 1, shifts + channel * values.rows, W, values.rows);
    }
    GANFORMER_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t at = r * channels + channel;
      const V x = V::load(rows + at);
      V result;
      if constexpr (I == Integration::mul) {
        result = x * V::all(factor[r]) * scale[r][0];
      } else if constexpr (I == Integration::add) {
        result = (x - V::all(mean[r])) + shift[r][0];
      } else {
        result = fma((x - V::all(mean[r])) * V::all(factor[r]), scale[r][0], shift[r][0]);
      }
      if (streams) {
        result.stream(to + at);
      } else {
        // Of the rows that come next: a store that has to wait for its line holds up all others.
        fetch_line(to + at + R * channels);
        result.store(to + at);
      }
    }
  }
}

template <class V, Integration I>
void forward(
    const Sizes& s, const Settings& settings, const Image<V>& in, const Image<V>& out, const Comparison<V>& comparison,
    const Values<V>& values) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const Padded<V> padded(s);
  const int64_t tiles = ceil_div(s.positions, kTile);
  const int64_t work = kTile * s.channels * (s.rows() + 1);
  const bool streams = out.streams();
  parallel_for(
      0, s.batch * tiles, std::max<int64_t>(1, 8 * kGrain / work), [&](int64_t begin, int64_t end) {
        Scratch<T> scratch(Scratch<T>::needed(
            {in.buffer_size(), out.buffer_size(), kTile * padded.all_lanes, kTile * padded.weights, kTile, kTile}));
        T* in_buffer = scratch.take(in.buffer_size());
        T* out_buffer = scratch.take(out.buffer_size());
        T* scores = scratch.take(kTile * padded.all_lanes);
        T* weights = scratch.take(kTile * padded.weights);
        T *mean = scratch.take(kTile), *factor = scratch.take(kTile);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t b = task / tiles, first = task % tiles * kTile, next = task + 1;
          const int64_t count = std::min(kTile, s.positions - first);
          const T* rows = in.read(b, first, count, in_buffer);
          T* to = out.rows(b, first, out_buffer);
          statistics<V, I>(rows, in.stride(), count, s.channels, settings.normalized, mean, factor);
          Ahead ahead = in.ahead(next / tiles, next % tiles * kTile, next < end ? kTile : 0);
          comparison.scores(b, first, count, rows, in.stride(), scores, ahead);
          softmax<V>(scores, s, padded, count, weights);
          if (settings.dropout > 0) {
            drop_cells<V>(s, settings, b, first, count, padded.weights, s.components, weights);
          }
          for (int64_t c = 0; c < padded.channels; c += kChunk) {
            const int64_t to_c = std::min(c + kChunk, padded.channels);
            by_blocks<8>(count, [&](auto rows_, int64_t i) {
              constexpr int R = decltype(rows_)::value;
              const T *weight = weights + i * padded.weights, *row = rows + i * padded.channels;
              T* result = to + i * padded.channels;
              if (padded.weights == 2 * W) {
                expand<V, I, R, 2 * W>(
                    weight, 0, values, b, row, mean + i, factor + i, padded.channels, c, to_c, result, streams, ahead);
              } else {
                expand<V, I, R, 0>(
                    weight, padded.weights, values, b, row, mean + i, factor + i, padded.channels, c, to_c, result, streams, ahead);
              }
            });
          }
          out.write(b, first, count, to);
        }
        finish_streams();
      });
}

template <class V>
void forward(
    const Sizes& s, const Settings& settings, const Image<V>& in, const Image<V>& out, const KeyTensors& keys,
    const Tensor& value_tensor, const Tensor& value_bias) {
  const Comparison<V> comparison(s, keys);
  const Values<V> values(s, settings, value_tensor, value_bias);
  switch (settings.integration) {
    case Integration::mul:
      return forward<V, Integration::mul>(s, settings, in, out, comparison, values);
    case Integration::add:
      return forward<V, Integration::add>(s, settings, in, out, comparison, values);
    case Integration::both:
      return forward<V, Integration::both>(s, settings, in, out, comparison, values);
  }
}

Tensor bipartite_attention(
    Tensor x, Tensor keys, Tensor key_bias, std::optional<Tensor> positions, std::optional<Tensor> position_keys,
    Tensor values, Tensor value_bias, std::string integration, std::string normalization, double dropout,
    std::optional<Tensor> seed) {
  const Settings settings = settings_of(kName, integration, normalization, dropout, seed);
  const KeyTensors given{keys, key_bias, positions, position_keys};
  const Sizes s = checked(kName, x, given, values, value_bias, settings);
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) {
    return out;
  }
  if (x.scalar_type() == ScalarType::Double) {
    using V = DoubleVector;
    forward<V>(s, settings, Image<V>(x, false), Image<V>(out, true), given, values, value_bias);
  } else {
    using V = FloatVector;
    forward<V>(s, settings, Image<V>(x, false), Image<V>(out, true), given, values, value_bias);
  }
  return out;
}

}  // namespace
}  // namespace ganformer

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  m.def(
      "bipartite_attention(Tensor x, Tensor keys, Tensor key_bias, Tensor? positions, Tensor? position_keys, "
      "Tensor values, Tensor value_bias, str integration, str normalization, float dropout, Tensor? seed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("bipartite_attention", GANFORMER_BOX(&ganformer::bipartite_attention));
}
