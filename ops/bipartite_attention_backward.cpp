// The gradients of bipartite attention: one pass over x and the gradient of the result. Probabilities and modulation are
// computed anew, tile by tile; what is summed over the positions is m-sized.
//
// With A the softmax, Ã after dropout, s = bias + Σ Ã·values, u = ω(x) and G the gradient of the result:
//     by the values   Σ_pixel Ã · (G ⊙ u)  for the scale, Σ_pixel Ã · G for the shift
//     by Ã            (G ⊙ u)·scale values + G·shift values ; through the dropout and the softmax that of the scores, Z
//     by x            of ω: r·(G ⊙ s − u·mean(G ⊙ s ⊙ u)), less its mean where ω subtracts the mean; and Σ Z·keys
//     by the keys     Σ_pixel Z · x
#include "attention_sums.h"
#include "bipartite_attention.h"

#include <tuple>
#include <vector>

namespace ganformer {
namespace {

const char* const kName = "bipartite_attention_backward";

// What one piece adds up: rows of components, and single rows.
template <class V>
struct Sums {
  using T = typename V::Scalar;
  int64_t wide, narrow, row, weights, size;
  std::unique_ptr<T[]> memory;

  Sums(const Sizes& s, const Padded<V>& padded, int64_t count)
      : wide(s.rows() * padded.channels),
        narrow(s.rows() * padded.width),
        row(padded.channels),
        weights(padded.weights),
        size(3 * wide + narrow + 2 * row + weights),
        memory(uninitialised<T>(std::max<int64_t>(1, count) * size)) {}

  T* keys(int64_t piece) const {
    return memory.get() + piece * size;
  }
  T* scale(int64_t piece) const {
    return keys(piece) + wide;
  }
  T* shift(int64_t piece) const {
    return scale(piece) + wide;
  }
  T* place(int64_t piece) const {
    return shift(piece) + wide;
  }
  T* scale_bias(int64_t piece) const {
    return place(piece) + narrow;
  }
  T* shift_bias(int64_t piece) const {
    return scale_bias(piece) + row;
  }
  T* key_bias(int64_t piece) const {
    return shift_bias(piece) + row;
  }
};

struct Gradients {
  Tensor x, keys, key_bias, positions, position_keys, values, value_bias;
};

// Everything that all tiles read.
template <class V>
struct Given {
  using T = typename V::Scalar;
  const Sizes s;
  const Settings settings;
  const Padded<V> padded;
  const Image<V> in, gradient, out;
  const Comparison<V> comparison;
  const Values<V> values;
  const Panels<V> key_panels;
  Lanes<V> scale_lanes, shift_lanes;
  Panels<V> place_panels;
  const T* positions = nullptr;

  Given(
      const Sizes& sizes, const Settings& set, const Tensor& x, const Tensor& grad, const Tensor& by_x,
      const KeyTensors& keys, const Tensor& value_tensor, const Tensor& value_bias)
      : s(sizes),
        settings(set),
        padded(sizes),
        in(x, false),
        gradient(grad, false),
        out(by_x, true),
        comparison(sizes, keys),
        values(sizes, set, value_tensor, value_bias),
        key_panels(data<T>(keys.content), keys.content.size(0), sizes.rows(), sizes.channels, sizes.channels) {
    const int64_t d = s.channels, stride = value_tensor.size(3), batch = value_tensor.size(0);
    if (settings.integration != Integration::add) {
      scale_lanes = Lanes<V>(data<T>(value_tensor), batch, s, d, stride);
    }
    if (settings.integration != Integration::mul) {
      shift_lanes = Lanes<V>(data<T>(value_tensor) + stride - d, batch, s, d, stride);
    }
    if (s.width > 0) {
      positions = data<T>(*keys.positions);
      place_panels = Panels<V>(data<T>(*keys.place), keys.place->size(0), s.rows(), s.width, s.width);
    }
  }
};

// One thread's tile.
template <class V>
struct Tile {
  using T = typename V::Scalar;
  Scratch<T> scratch;
  T *in_buffer, *gradient_buffer, *out_buffer;
  T* scaled;       // G ⊙ u, [pixel][channel]
  T* lanes;        // scores, then gradients of Ã, [pixel][all lanes]
  T* probability;  // A, [pixel][weights]
  T* weights;      // Ã
  T* by_scores;    // Z
  T *places, *by_places;
  T *mean, *factor;
  T* along;   // mean(G ⊙ s ⊙ u)
  T* centre;  // what is subtracted at the end

  static int64_t needed(const Given<V>& given) {
    const Padded<V>& padded = given.padded;
    return Scratch<T>::needed(
        {given.in.buffer_size(), given.gradient.buffer_size(), given.out.buffer_size(), kTile * padded.channels,
         kTile * padded.all_lanes, kTile * padded.weights, kTile * padded.weights, kTile * padded.weights,
         kTile * padded.width, kTile * padded.width, kTile, kTile, kTile, kTile});
  }
  explicit Tile(const Given<V>& given) : scratch(needed(given)) {
    const Padded<V>& padded = given.padded;
    in_buffer = scratch.take(given.in.buffer_size());
    gradient_buffer = scratch.take(given.gradient.buffer_size());
    out_buffer = scratch.take(given.out.buffer_size());
    scaled = scratch.take(kTile * padded.channels);
    lanes = scratch.take(kTile * padded.all_lanes);
    probability = scratch.take(kTile * padded.weights);
    weights = scratch.take(kTile * padded.weights);
    by_scores = scratch.take(kTile * padded.weights);
    places = scratch.take(kTile * padded.width);
    by_places = scratch.take(kTile * padded.width);
    mean = scratch.take(kTile);
    factor = scratch.take(kTile);
    along = scratch.take(kTile);
    centre = scratch.take(kTile);
  }
};

// G ⊙ u; for each pixel the part of `along` that the bias has, and of add the mean of G.
template <class V, Integration I>
GANFORMER_NOINLINE void scale_gradient(
    const Given<V>& given, int64_t b, int64_t count, const typename V::Scalar* rows,
    const typename V::Scalar* gradient, const Tile<V>& tile) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const int64_t channels = given.padded.channels;
  const T* bias = I == Integration::add ? nullptr : given.values.scale_bias.item(b);
  for (int64_t i = 0; i < count; ++i) {
    const T *x = rows + i * channels, *g = gradient + i * channels;
    const V mean = V::all(tile.mean[i]), factor = V::all(tile.factor[i]);
    V along = V::zero(), total = V::zero();
    for (int64_t c = 0; c < channels; c += W) {
      const V grad = V::load(g + c);
      if constexpr (I == Integration::add) {
        total = total + grad;
      } else {
        V scaled = V::load(x + c);
        if constexpr (I == Integration::both) {
          scaled = scaled - mean;
        }
        scaled = scaled * factor * grad;
        scaled.store(tile.scaled + i * channels + c);
        along = fma(scaled, V::load(bias + c), along);
      }
    }
    tile.along[i] = sum(along);
    const bool centred = I == Integration::add && given.settings.normalized;
    tile.centre[i] = centred ? sum(total) / static_cast<T>(given.s.channels) : T(0);
  }
}

// Completes `along` with what the components have of it: Σ Ã · gradient of Ã.
template <class V>
void finish_along(const Given<V>& given, int64_t count, const Tile<V>& tile) {
  using T = typename V::Scalar;
  const Sizes& s = given.s;
  for (int64_t i = 0; i < count; ++i) {
    V total = V::zero();
    for (int64_t h = 0; h < s.heads; ++h) {
      const T* weight = tile.weights + i * given.padded.weights + h * s.components;
      const T* by_weight = tile.lanes + i * given.padded.all_lanes + h * given.padded.lanes;
      for (int64_t j = 0; j < s.components; j += V::kWidth) {
        total = fma(V::load_first(weight + j, s.components - j), V::load(by_weight + j), total);
      }
    }
    tile.along[i] = given.settings.normalized ? (tile.along[i] + sum(total)) / static_cast<T>(s.channels) : T(0);
  }
}

// Through the softmax: Z = A ⊙ (gradient of A − Σ A · gradient of A).
template <class V>
void softmax_gradient(const Given<V>& given, int64_t count, const Tile<V>& tile) {
  using T = typename V::Scalar;
  const Sizes& s = given.s;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t at = i * given.padded.weights + h * s.components;
      const T* by_weight = tile.lanes + i * given.padded.all_lanes + h * given.padded.lanes;
      V total = V::zero();
      for (int64_t j = 0; j < s.components; j += V::kWidth) {
        total = fma(V::load_first(tile.probability + at + j, s.components - j), V::load(by_weight + j), total);
      }
      const V mean = V::all(sum(total));
      for (int64_t j = 0; j < s.components; j += V::kWidth) {
        const V a = V::load_first(tile.probability + at + j, s.components - j);
        (a * (V::load(by_weight + j) - mean)).store(tile.by_scores + at + j);
      }
    }
  }
}

// The gradient by x of R pixels, channels `begin` to `end`; `centre` sums up G ⊙ s where its mean is to be subtracted. S
// is the stride of the weights, where that is known, or 0. With `streams`, it goes past the caches.
template <class V, Integration I, int R, int S>
GANFORMER_NOINLINE void image_gradient(
    const Given<V>& given, int64_t b, int64_t i, int64_t begin, int64_t end, const typename V::Scalar* rows,
    const typename V::Scalar* gradient, const Tile<V>& tile, typename V::Scalar* to, bool streams) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const int64_t channels = given.padded.channels, components = given.s.rows();
  const int64_t stride = S > 0 ? S : given.padded.weights;
  const T *weights = tile.weights + i * stride, *by_scores = tile.by_scores + i * stride;
  const T *mean = tile.mean + i, *factor = tile.factor + i, *along = tile.along + i;
  const T* keys = given.key_panels.item(b);
  const T *scales = nullptr, *scale_bias = nullptr;
  if constexpr (I != Integration::add) {
    scales = given.values.scale.item(b);
    scale_bias = given.values.scale_bias.item(b);
  }
  V sums[R];
  GANFORMER_UNROLL
  for (int r = 0; r < R; ++r) {
    sums[r] = V::zero();
  }
  rows += i * channels;
  gradient += i * channels;
  to += i * channels;
  for (int64_t channel = begin; channel < end; channel += W) {
    V by_keys[R][1], scale[R][1];
    GANFORMER_UNROLL
    for (int r = 0; r < R; ++r) {
      by_keys[r][0] = V::zero();
    }
    multiply_add<V, R, 1>(by_keys, by_scores, stride, 1, keys + channel * components, W, components);
    if constexpr (I != Integration::add) {
      const V start = V::load(scale_bias + channel);
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        scale[r][0] = start;
      }
      multiply_add<V, R, 1>(scale, weights, stride, 1, scales + channel * components, W, components);
    }
    GANFORMER_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t at = r * channels + channel;
      const V g = V::load(gradient + at);
      V result;
      if constexpr (I == Integration::add) {
        result = g - V::all(tile.centre[i + r]) + by_keys[r][0];
      } else {
        V u = V::load(rows + at);
        if constexpr (I == Integration::both) {
          u = u - V::all(mean[r]);
        }
        const V f = V::all(factor[r]), by_scale = g * scale[r][0];
        result = fma(f, by_scale - u * f * V::all(along[r]), by_keys[r][0]);
        if constexpr (I == Integration::both) {
          sums[r] = sums[r] + by_scale;
        }
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
  if constexpr (I == Integration::both) {
    GANFORMER_UNROLL
    for (int r = 0; r < R; ++r) {
      tile.centre[i + r] = tile.centre[i + r] + sum(sums[r]);
    }
  }
}

// ω subtracts the mean: so does its gradient.
template <class V>
void centre_gradient(const Given<V>& given, int64_t count, const Tile<V>& tile, typename V::Scalar* to) {
  using T = typename V::Scalar;
  for (int64_t i = 0; i < count; ++i) {
    const V mean = V::all(tile.factor[i] * tile.centre[i] / static_cast<T>(given.s.channels));
    for (int64_t c = 0; c < given.padded.channels; c += V::kWidth) {
      T* at = to + i * given.padded.channels + c;
      (V::load(at) - mean).store(at);
    }
  }
}

// The gradient by the positions of a tile: Σ Z · position keys.
template <class V>
void place_gradient(const Given<V>& given, int64_t b, int64_t count, const Tile<V>& tile) {
  const int64_t width = given.padded.width, stride = given.padded.weights;
  for (int64_t channel = 0; channel < width; channel += V::kWidth) {
    by_blocks<Block<V>::kRows>(count, [&](auto rows_, int64_t i) {
      constexpr int R = decltype(rows_)::value;
      V acc[R][1];
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        acc[r][0] = V::zero();
      }
      multiply_add<V, R, 1>(
          acc, tile.by_scores + i * stride, stride, 1, given.place_panels.item(b) + channel * given.s.rows(),
          V::kWidth, given.s.rows());
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        acc[r][0].store(tile.by_places + (i + r) * width + channel);
      }
    });
  }
}

template <class V, Integration I>
void backward_of_tile(
    const Given<V>& given, int64_t b, int64_t first, int64_t count, const Tile<V>& tile, const Sums<V>& sums,
    int64_t piece) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const Sizes& s = given.s;
  const Padded<V>& padded = given.padded;
  const int64_t channels = padded.channels, components = s.rows();
  const T* rows = given.in.read(b, first, count, tile.in_buffer);
  const T* gradient = given.gradient.read(b, first, count, tile.gradient_buffer);
  T* to = given.out.rows(b, first, tile.out_buffer);
  const int64_t next = std::min(kTile, s.positions - first - count);
  Ahead ahead = given.in.ahead(b, first + count, next, 2);
  Ahead ahead_gradient = given.gradient.ahead(b, first + count, next, 2);

  statistics<V, I>(rows, channels, count, s.channels, given.settings.normalized, tile.mean, tile.factor);
  given.comparison.scores(b, first, count, rows, channels, tile.lanes, ahead);
  softmax<V>(tile.lanes, s, padded, count, tile.probability);
  std::copy(tile.probability, tile.probability + count * padded.weights, tile.weights);
  if (given.settings.dropout > 0) {
    drop_cells<V>(s, given.settings, b, first, count, padded.weights, s.components, tile.weights);
  }

  scale_gradient<V, I>(given, b, count, rows, gradient, tile);
  if constexpr (I == Integration::add) {
    const Term<T> terms[1] = {{gradient, channels, s.channels, given.shift_lanes.item(b)}};
    dots<V, 1>(terms, nullptr, count, padded.all_lanes, tile.lanes, ahead_gradient);
  } else {
    const Term<T> terms[1] = {{tile.scaled, channels, s.channels, given.scale_lanes.item(b)}};
    dots<V, 1>(terms, nullptr, count, padded.all_lanes, tile.lanes, ahead_gradient);
    finish_along<V>(given, count, tile);
  }
  if constexpr (I == Integration::both) {
    const Term<T> terms[1] = {{gradient, channels, s.channels, given.shift_lanes.item(b)}};
    add_dots<V, 1>(terms, count, padded.all_lanes, tile.lanes, ahead_gradient);
  }
  if (given.settings.dropout > 0) {
    drop_cells<V>(s, given.settings, b, first, count, padded.all_lanes, padded.lanes, tile.lanes);
  }
  softmax_gradient<V>(given, count, tile);

  const bool centred = I == Integration::both && given.settings.normalized, streams = given.out.streams() && !centred;
  for (int64_t c = 0; c < channels; c += kChunk) {
    const int64_t to_c = std::min(c + kChunk, channels);
    by_blocks<8>(count, [&](auto rows_, int64_t i) {
      constexpr int R = decltype(rows_)::value;
      if (padded.weights == 2 * W) {
        image_gradient<V, I, R, 2 * W>(given, b, i, c, to_c, rows, gradient, tile, to, streams);
      } else {
        image_gradient<V, I, R, 0>(given, b, i, c, to_c, rows, gradient, tile, to, streams);
      }
    });
  }
  if (centred) {
    centre_gradient<V>(given, count, tile, to);
  }
  given.out.write(b, first, count, to);

  outer<V>(tile.by_scores, padded.weights, rows, channels, count, components, channels, sums.keys(piece));
  if constexpr (I != Integration::add) {
    outer<V>(tile.weights, padded.weights, tile.scaled, channels, count, components, channels, sums.scale(piece));
    add_rows<V>(tile.scaled, channels, count, channels, sums.scale_bias(piece));
  }
  if constexpr (I != Integration::mul) {
    outer<V>(tile.weights, padded.weights, gradient, channels, count, components, channels, sums.shift(piece));
    add_rows<V>(gradient, channels, count, channels, sums.shift_bias(piece));
  }
  add_rows<V>(tile.by_scores, padded.weights, count, round_up(components, W), sums.key_bias(piece));
  if (s.width > 0) {
    read_positions<V>(given.positions, s, padded, first, count, tile.places);
    outer<V>(tile.by_scores, padded.weights, tile.places, padded.width, count, components, padded.width,
             sums.place(piece));
  }
}

template <class V, Integration I>
void backward(const Given<V>& given, bool need_positions, const Gradients& to) {
  using T = typename V::Scalar;
  const Sizes& s = given.s;
  const Padded<V>& padded = given.padded;
  const Pieces pieces(s);
  const Sums<V> sums(s, padded, s.batch * pieces.count);
  std::unique_ptr<T[]> of_positions;  // one for each image
  if (need_positions) {
    of_positions = uninitialised<T>(s.batch * s.positions * s.width);
  }
  pieces.each(s, [&](int64_t b, int64_t number) {
    const Tile<V> tile(given);
    const int64_t piece = b * pieces.count + number;
    std::fill(sums.keys(piece), sums.keys(piece) + sums.size, T(0));
    pieces.tiles(s, number, [&](int64_t first, int64_t count) {
      backward_of_tile<V, I>(given, b, first, count, tile, sums, piece);
      if (need_positions) {
        place_gradient<V>(given, b, count, tile);
        for (int64_t i = 0; i < count; ++i) {
          const T* from = tile.by_places + i * padded.width;
          std::copy(from, from + s.width, of_positions.get() + (b * s.positions + first + i) * s.width);
        }
      }
    });
    finish_streams();
  });

  const int64_t d = s.channels, outputs = to.values.size(3);
  add_pieces<V>(s, pieces, to.keys, d, [&](int64_t piece, int64_t row) {
    return sums.keys(piece) + row * padded.channels;
  });
  add_pieces<V>(s, pieces, to.key_bias, 1, [&](int64_t piece, int64_t row) { return sums.key_bias(piece) + row; });
  if (s.width > 0) {
    add_pieces<V>(s, pieces, to.position_keys, s.width, [&](int64_t piece, int64_t row) {
      return sums.place(piece) + row * padded.width;
    });
  }
  if (I != Integration::add) {
    add_pieces<V>(s, pieces, to.values, s.rows(), d, outputs, 0, [&](int64_t piece, int64_t row) {
      return sums.scale(piece) + row * padded.channels;
    });
    add_pieces<V>(s, pieces, to.value_bias, 1, d, outputs, 0, [&](int64_t piece, int64_t) {
      return sums.scale_bias(piece);
    });
  }
  if (I != Integration::mul) {
    add_pieces<V>(s, pieces, to.values, s.rows(), d, outputs, outputs - d, [&](int64_t piece, int64_t row) {
      return sums.shift(piece) + row * padded.channels;
    });
    add_pieces<V>(s, pieces, to.value_bias, 1, d, outputs, outputs - d, [&](int64_t piece, int64_t) {
      return sums.shift_bias(piece);
    });
  }
  if (need_positions) {
    add_positions<T>(s, of_positions.get(), to.positions);
  }
}

template <class V>
void backward(const Given<V>& given, bool need_positions, const Gradients& to) {
  switch (given.settings.integration) {
    case Integration::mul:
      return backward<V, Integration::mul>(given, need_positions, to);
    case Integration::add:
      return backward<V, Integration::add>(given, need_positions, to);
    case Integration::both:
      return backward<V, Integration::both>(given, need_positions, to);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> bipartite_attention_backward(
    Tensor grad, Tensor x, Tensor keys, Tensor key_bias, std::optional<Tensor> positions,
    std::optional<Tensor> position_keys, Tensor values, Tensor value_bias, std::string integration,
    std::string normalization, double dropout, std::optional<Tensor> seed, bool need_positions) {
  const Settings settings = settings_of(kName, integration, normalization, dropout, seed);
  const KeyTensors given{keys, key_bias, positions, position_keys};
  const Sizes s = checked(kName, x, given, values, value_bias, settings);
  check_type(kName, "grad", grad, x.scalar_type());
  check_same_shape(kName, "grad", grad, x);
  STD_TORCH_CHECK(layout_of(grad) != Layout::neither, kName, ": grad must be contiguous or channels-last");
  need_positions = need_positions && s.width > 0;
  const auto nothing = [&]() { return torch::stable::new_empty(keys, std::vector<int64_t>{0}); };
  const auto like = [](const Tensor& model) { return torch::stable::empty_like(model); };
  const Gradients to{
      like(x), like(keys), like(key_bias), need_positions ? like(*positions) : nothing(),
      s.width > 0 ? like(*position_keys) : nothing(), like(values), like(value_bias)};
  if (x.scalar_type() == ScalarType::Double) {
    backward<DoubleVector>(
        Given<DoubleVector>(s, settings, x, grad, to.x, given, values, value_bias), need_positions, to);
  } else {
    backward<FloatVector>(
        Given<FloatVector>(s, settings, x, grad, to.x, given, values, value_bias), need_positions, to);
  }
  return {to.x, to.keys, to.key_bias, to.positions, to.position_keys, to.values, to.value_bias};
}

}  // namespace
}  // namespace ganformer

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  m.def(
      "bipartite_attention_backward(Tensor grad, Tensor x, Tensor keys, Tensor key_bias, Tensor? positions, "
      "Tensor? position_keys, Tensor values, Tensor value_bias, str integration, str normalization, float dropout, "
      "Tensor? seed, bool need_positions) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("bipartite_attention_backward", GANFORMER_BOX(&ganformer::bipartite_attention_backward));
}
