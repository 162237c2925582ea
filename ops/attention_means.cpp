// Sums of pixels and positions, weighted with attention: what k-means' centroids and duplex' components gather. One pass
// over x, forward and backward; the probabilities are computed anew in the backward pass.
// ganformer_cli/operators/attention.py says what is computed, and has it in plain torch.
#include "attention_sums.h"

namespace ganformer {
namespace {

const char* const kName = "attention_means";

// What one piece adds up, for every component: a row of channels, a row of positions' numbers, and two numbers.
template <class V>
struct Sums {
  using T = typename V::Scalar;
  int64_t content_size, place_size, lanes, size;
  std::unique_ptr<T[]> memory;

  Sums(const Sizes& s, const Padded<V>& padded, int64_t count)
      : content_size(s.rows() * padded.channels),
        place_size(s.rows() * padded.width),
        lanes(padded.all_lanes),
        size(round_up(content_size + place_size + 2 * lanes, 64)),
        memory(uninitialised<T>(std::max<int64_t>(1, count) * size)) {}

  T* content(int64_t piece) const {
    return memory.get() + piece * size;
  }
  T* place(int64_t piece) const {
    return content(piece) + content_size;
  }
  T* total(int64_t piece) const {  // as lanes
    return place(piece) + place_size;
  }
  T* top(int64_t piece) const {  // as lanes
    return total(piece) + lanes;
  }
};

// The scores of a tile to weights of a softmax over the positions that is still under way: relative to the largest score
// so far. What was summed before is brought to the new largest score.
template <class V>
void online_softmax(
    const typename V::Scalar* scores, const Sizes& s, const Padded<V>& padded, int64_t count,
    typename V::Scalar* weights, const Sums<V>& sums, int64_t piece) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  T *top = sums.top(piece), *total = sums.total(piece);
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t lane = h * padded.lanes; lane < (h + 1) * padded.lanes; lane += W) {
      const V before = V::load(top + lane);
      V now = before;
      for (int64_t i = 0; i < count; ++i) {
        now = max(now, V::load(scores + i * padded.all_lanes + lane));
      }
      T factors[W];
      exp(before - now).store(factors);
      now.store(top + lane);
      (V::load(total + lane) * V::load(factors)).store(total + lane);
      for (int64_t j = lane - h * padded.lanes; j < s.components && j < lane - h * padded.lanes + W; ++j) {
        const T factor = factors[j - (lane - h * padded.lanes)];
        if (factor != T(1)) {
          const int64_t row = h * s.components + j;
          T *content = sums.content(piece) + row * padded.channels, *place = sums.place(piece) + row * padded.width;
          for (int64_t c = 0; c < padded.channels; c += W) {
            (V::load(content + c) * V::all(factor)).store(content + c);
          }
          for (int64_t c = 0; c < padded.width; c += W) {
            (V::load(place + c) * V::all(factor)).store(place + c);
          }
        }
      }
    }
  }
  // From the first head on: what it writes behind its own weights, the next one overwrites.
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t j = 0; j < padded.lanes; j += W) {
      const int64_t lane = h * padded.lanes + j;
      const V most = V::load(top + lane);
      V sum = V::zero();  // of a tile by itself: sums of sums round less than one long sum
      for (int64_t i = 0; i < count; ++i) {
        const V e = exp(V::load(scores + i * padded.all_lanes + lane) - most);
        e.store(weights + i * padded.weights + h * s.components + j);
        sum = sum + e;
      }
      (V::load(total + lane) + sum).store(total + lane);
    }
  }
}

// ---------------------------------------------------------------------------------------------- forward

struct Means {
  Tensor content, place, total, logsumexp;
};

template <class V>
void forward(
    const Sizes& s, const Image<V>& in, const KeyTensors& keys, bool over_positions, const Means& means) {
  using T = typename V::Scalar;
  const Padded<V> padded(s);
  const Pieces pieces(s);
  const Comparison<V> comparison(s, keys);
  const Sums<V> sums(s, padded, s.batch * pieces.count);
  const T* positions = s.width > 0 ? data<T>(*keys.positions) : nullptr;
  pieces.each(s, [&](int64_t b, int64_t number) {
    Scratch<T> scratch(Scratch<T>::needed(
        {in.buffer_size(), kTile * padded.all_lanes, kTile * padded.weights, kTile * padded.width}));
    T* buffer = scratch.take(in.buffer_size());
    T* scores = scratch.take(kTile * padded.all_lanes);
    T* weights = scratch.take(kTile * padded.weights);
    T* places = scratch.take(kTile * padded.width);
    const int64_t piece = b * pieces.count + number;
    std::fill(sums.content(piece), sums.top(piece), T(0));
    std::fill(sums.top(piece), sums.top(piece) + padded.all_lanes, -std::numeric_limits<T>::infinity());
    pieces.tiles(s, number, [&](int64_t first, int64_t count) {
      const T* rows = in.read(b, first, count, buffer);
      Ahead ahead = in.ahead(b, first + count, std::min(kTile, s.positions - first - count), 2);
      comparison.scores(b, first, count, rows, in.stride(), scores, ahead);
      if (over_positions) {
        online_softmax<V>(scores, s, padded, count, weights, sums, piece);
      } else {
        softmax<V>(scores, s, padded, count, weights);
        for (int64_t row = 0; row < s.rows(); ++row) {
          T total = T(0);  // of a tile by itself: sums of sums round less than one long sum
          for (int64_t i = 0; i < count; ++i) {
            total += weights[i * padded.weights + row];
          }
          sums.total(piece)[lane_of<V>(s, padded, row)] += total;
        }
      }
      outer<V>(weights, padded.weights, rows, in.stride(), count, s.rows(), padded.channels, sums.content(piece));
      if (s.width > 0) {
        read_positions<V>(positions, s, padded, first, count, places);
        outer<V>(weights, padded.weights, places, padded.width, count, s.rows(), padded.width, sums.place(piece));
      }
    });
  });
  T *content = mutable_data<T>(means.content), *place = mutable_data<T>(means.place);
  T* total = mutable_data<T>(means.total);
  double* logsumexp = mutable_data<double>(means.logsumexp);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t row = 0; row < s.rows(); ++row) {
      const int64_t at = b * s.rows() + row, lane = lane_of<V>(s, padded, row);
      T *to = content + at * s.channels, *to_place = place + at * s.width;
      std::fill(to, to + s.channels, T(0));
      std::fill(to_place, to_place + s.width, T(0));
      T top = -std::numeric_limits<T>::infinity(), sum = T(0);
      for (int64_t k = 0; k < pieces.count && over_positions; ++k) {
        const T one = sums.top(b * pieces.count + k)[lane];
        top = one > top || one != one ? one : top;
      }
      for (int64_t k = 0; k < pieces.count; ++k) {
        const int64_t piece = b * pieces.count + k;
        const T factor = over_positions ? std::exp(sums.top(piece)[lane] - top) : T(1);
        sum += sums.total(piece)[lane] * factor;
        const T *from = sums.content(piece) + row * padded.channels, *from_place = sums.place(piece) + row * padded.width;
        for (int64_t c = 0; c < s.channels; ++c) {
          to[c] += from[c] * factor;
        }
        for (int64_t c = 0; c < s.width; ++c) {
          to_place[c] += from_place[c] * factor;
        }
      }
      if (over_positions) {
        for (int64_t c = 0; c < s.channels; ++c) {
          to[c] /= sum;
        }
        for (int64_t c = 0; c < s.width; ++c) {
          to_place[c] /= sum;
        }
        logsumexp[at] = static_cast<double>(top) + std::log(static_cast<double>(sum));
      }
      total[at] = over_positions ? T(1) : sum;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_means(
    Tensor x, Tensor keys, Tensor key_bias, std::optional<Tensor> positions, std::optional<Tensor> position_keys,
    int64_t over) {
  const KeyTensors given{keys, key_bias, positions, position_keys};
  const Sizes s = checked_sizes(kName, x, given);
  STD_TORCH_CHECK(over == 0 || over == 1, kName, ": over must be 0 (components) or 1 (positions)");
  STD_TORCH_CHECK(over == 0 || s.positions > 0, kName, ": x must have at least one position");
  const auto made = [&](std::vector<int64_t> sizes) {
    return torch::stable::new_empty(keys, sizes);
  };
  const Means means{
      made({s.batch, s.heads, s.components, s.channels}), made({s.batch, s.heads, s.components, s.width}),
      made({s.batch, s.heads, s.components}),
      // In float64: the rounding of one of these would be an error of all weights of its component.
      torch::stable::new_empty(
          keys, over == 1 ? std::vector<int64_t>{s.batch, s.heads, s.components} : std::vector<int64_t>{0},
          ScalarType::Double)};
  if (x.scalar_type() == ScalarType::Double) {
    forward<DoubleVector>(s, Image<DoubleVector>(x, false), given, over == 1, means);
  } else {
    forward<FloatVector>(s, Image<FloatVector>(x, false), given, over == 1, means);
  }
  return {means.content, means.place, means.total, means.logsumexp};
}

// ---------------------------------------------------------------------------------------------- backward

struct Gradients {
  Tensor x, keys, key_bias, positions, position_keys;
};

struct Given {
  const Tensor &grad_content, &grad_place, &grad_total, &content, &place, &logsumexp;
};

// to[pixel][channel] = Σ_component a · left + b · right
template <class V>
void spread(
    const typename V::Scalar* a, const typename V::Scalar* b, int64_t stride, const typename V::Scalar* left,
    const typename V::Scalar* right, int64_t components, int64_t count, int64_t width, typename V::Scalar* to) {
  constexpr int W = V::kWidth;
  for (int64_t channel = 0; channel < width; channel += W) {
    by_blocks<Block<V>::kRows>(count, [&](auto rows_, int64_t i) {
      constexpr int R = decltype(rows_)::value;
      V acc[R][1];
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        acc[r][0] = V::zero();
      }
      multiply_add<V, R, 1>(acc, a + i * stride, stride, 1, left + channel * components, W, components);
      multiply_add<V, R, 1>(acc, b + i * stride, stride, 1, right + channel * components, W, components);
      GANFORMER_UNROLL
      for (int r = 0; r < R; ++r) {
        acc[r][0].store(to + (i + r) * width + channel);
      }
    });
  }
}

template <class V>
void backward(
    const Sizes& s, const Image<V>& in, const Image<V>& out, const KeyTensors& keys, bool over_positions,
    const Given& given, bool need_positions, const Gradients& to) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const Padded<V> padded(s);
  const Pieces pieces(s);
  const int64_t rows_of_all = s.rows();
  const Comparison<V> comparison(s, keys);
  const Lanes<V> grad_content(data<T>(given.grad_content), s.batch, s, s.channels, s.channels);
  const Panels<V> spread_content(data<T>(given.grad_content), s.batch, rows_of_all, s.channels, s.channels);
  const Panels<V> key_content(data<T>(keys.content), keys.content.size(0), rows_of_all, s.channels, s.channels);
  Lanes<V> grad_place, logsumexp, remainder;
  Panels<V> spread_place, key_place;
  const T* positions = nullptr;
  if (s.width > 0) {
    positions = data<T>(*keys.positions);
    grad_place = Lanes<V>(data<T>(given.grad_place), s.batch, s, s.width, s.width);
    spread_place = Panels<V>(data<T>(given.grad_place), s.batch, rows_of_all, s.width, s.width);
    key_place = Panels<V>(data<T>(*keys.place), keys.place->size(0), rows_of_all, s.width, s.width);
  }
  // What is added to the gradient of every weight of a component: over the components that of its total; over the
  // positions minus the mean of the gradient under the softmax.
  std::vector<T> added(static_cast<size_t>(s.batch * rows_of_all));
  for (int64_t i = 0; i < s.batch * rows_of_all; ++i) {
    if (!over_positions) {
      added[i] = data<T>(given.grad_total)[i];
      continue;
    }
    T mean = T(0);
    for (int64_t c = 0; c < s.channels; ++c) {
      mean += data<T>(given.grad_content)[i * s.channels + c] * data<T>(given.content)[i * s.channels + c];
    }
    for (int64_t c = 0; c < s.width; ++c) {
      mean += data<T>(given.grad_place)[i * s.width + c] * data<T>(given.place)[i * s.width + c];
    }
    added[i] = -mean;
  }
  const Lanes<V> bias(added.data(), s.batch, s, 1, 1);
  if (over_positions) {
    // As the nearest T, and the factor that what is left of it makes.
    std::vector<T> near(added.size()), factor(added.size());
    for (size_t i = 0; i < added.size(); ++i) {
      const double exact = data<double>(given.logsumexp)[i];
      near[i] = static_cast<T>(exact);
      factor[i] = static_cast<T>(std::exp(static_cast<double>(near[i]) - exact));
    }
    logsumexp = Lanes<V>(near.data(), s.batch, s, 1, 1);
    remainder = Lanes<V>(factor.data(), s.batch, s, 1, 1);
  }
  const Sums<V> sums(s, padded, s.batch * pieces.count);
  std::unique_ptr<T[]> of_positions;  // one for each image
  if (need_positions) {
    of_positions = uninitialised<T>(s.batch * s.positions * s.width);
  }
  pieces.each(s, [&](int64_t b, int64_t number) {
    Scratch<T> scratch(Scratch<T>::needed(
        {in.buffer_size(), out.buffer_size(), kTile * padded.all_lanes, kTile * padded.all_lanes,
         kTile * padded.weights, kTile * padded.weights, kTile * padded.width, kTile * padded.width}));
    T *buffer = scratch.take(in.buffer_size()), *out_buffer = scratch.take(out.buffer_size());
    T *scores = scratch.take(kTile * padded.all_lanes), *by_weights = scratch.take(kTile * padded.all_lanes);
    T *weights = scratch.take(kTile * padded.weights), *by_scores = scratch.take(kTile * padded.weights);
    T *places = scratch.take(kTile * padded.width), *by_places = scratch.take(kTile * padded.width);
    const int64_t piece = b * pieces.count + number;
    std::fill(sums.content(piece), sums.top(piece), T(0));
    pieces.tiles(s, number, [&](int64_t first, int64_t count) {
      const T* rows = in.read(b, first, count, buffer);
      Ahead ahead = in.ahead(b, first + count, std::min(kTile, s.positions - first - count), 2), nothing;
      comparison.scores(b, first, count, rows, in.stride(), scores, ahead);
      if (s.width > 0) {
        read_positions<V>(positions, s, padded, first, count, places);
        const Term<T> terms[2] = {
            {rows, in.stride(), s.channels, grad_content.item(b)}, {places, padded.width, s.width, grad_place.item(b)}};
        dots<V, 2>(terms, bias.item(b), count, padded.all_lanes, by_weights, nothing);
      } else {
        const Term<T> terms[1] = {{rows, in.stride(), s.channels, grad_content.item(b)}};
        dots<V, 1>(terms, bias.item(b), count, padded.all_lanes, by_weights, nothing);
      }
      if (over_positions) {
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t h = 0; h < s.heads; ++h) {
            for (int64_t j = 0; j < padded.lanes; j += W) {
              const int64_t lane = h * padded.lanes + j;
              const V weight =
                  exp(V::load(scores + i * padded.all_lanes + lane) - V::load(logsumexp.item(b) + lane)) *
                  V::load(remainder.item(b) + lane);
              const int64_t at = i * padded.weights + h * s.components + j;
              weight.store(weights + at);
              (weight * V::load(by_weights + i * padded.all_lanes + lane)).store(by_scores + at);
            }
          }
        }
      } else {
        softmax<V>(scores, s, padded, count, weights);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t h = 0; h < s.heads; ++h) {
            const T* weight = weights + i * padded.weights + h * s.components;
            const T* by_weight = by_weights + i * padded.all_lanes + h * padded.lanes;
            V total = V::zero();
            for (int64_t j = 0; j < s.components; j += W) {
              total = fma(V::load_first(weight + j, s.components - j), V::load(by_weight + j), total);
            }
            const V mean = V::all(sum(total));
            for (int64_t j = 0; j < s.components; j += W) {
              (V::load_first(weight + j, s.components - j) * (V::load(by_weight + j) - mean))
                  .store(by_scores + i * padded.weights + h * s.components + j);
            }
          }
        }
      }
      outer<V>(by_scores, padded.weights, rows, in.stride(), count, rows_of_all, padded.channels, sums.content(piece));
      // Over the positions a bias has no effect, and a gradient of 0, not of what rounding leaves of it.
      if (!over_positions) {
        add_rows<V>(by_scores, padded.weights, count, round_up(rows_of_all, W), sums.total(piece));
      }
      T* by_x = out.rows(b, first, out_buffer);
      spread<V>(
          weights, by_scores, padded.weights, spread_content.item(b), key_content.item(b), rows_of_all, count,
          padded.channels, by_x);
      out.write(b, first, count, by_x);
      if (s.width > 0) {
        outer<V>(by_scores, padded.weights, places, padded.width, count, rows_of_all, padded.width, sums.place(piece));
      }
      if (need_positions) {
        spread<V>(
            weights, by_scores, padded.weights, spread_place.item(b), key_place.item(b), rows_of_all, count,
            padded.width, by_places);
        for (int64_t i = 0; i < count; ++i) {
          const T* from = by_places + i * padded.width;
          std::copy(from, from + s.width, of_positions.get() + (b * s.positions + first + i) * s.width);
        }
      }
    });
  });
  add_pieces<V>(s, pieces, to.keys, s.channels, [&](int64_t piece, int64_t row) {
    return sums.content(piece) + row * padded.channels;
  });
  add_pieces<V>(s, pieces, to.key_bias, 1, [&](int64_t piece, int64_t row) { return sums.total(piece) + row; });
  if (s.width > 0) {
    add_pieces<V>(s, pieces, to.position_keys, s.width, [&](int64_t piece, int64_t row) {
      return sums.place(piece) + row * padded.width;
    });
  }
  if (need_positions) {
    add_positions<T>(s, of_positions.get(), to.positions);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_means_backward(
    Tensor grad_content, Tensor grad_place, Tensor grad_total, Tensor x, Tensor keys, Tensor key_bias,
    std::optional<Tensor> positions, std::optional<Tensor> position_keys, Tensor content, Tensor place,
    Tensor logsumexp, int64_t over, bool need_positions) {
  const char* const name = "attention_means_backward";
  const KeyTensors given{keys, key_bias, positions, position_keys};
  const Sizes s = checked_sizes(name, x, given);
  const ScalarType wide = math_type(x.scalar_type());
  STD_TORCH_CHECK(over == 0 || over == 1, name, ": over must be 0 (components) or 1 (positions)");
  check_argument(name, "grad_content", grad_content, wide, {s.batch, s.heads, s.components, s.channels});
  check_argument(name, "grad_place", grad_place, wide, {s.batch, s.heads, s.components, s.width});
  check_argument(name, "grad_total", grad_total, wide, {s.batch, s.heads, s.components});
  if (over == 1) {
    check_argument(name, "content", content, wide, {s.batch, s.heads, s.components, s.channels});
    check_argument(name, "place", place, wide, {s.batch, s.heads, s.components, s.width});
    check_argument(name, "logsumexp", logsumexp, ScalarType::Double, {s.batch, s.heads, s.components});
  }
  need_positions = need_positions && s.width > 0;
  const auto nothing = [&]() { return torch::stable::new_empty(keys, std::vector<int64_t>{0}); };
  const Gradients to{
      torch::stable::empty_like(x), torch::stable::empty_like(keys), torch::stable::empty_like(key_bias),
      need_positions ? torch::stable::empty_like(*positions) : nothing(),
      s.width > 0 ? torch::stable::empty_like(*position_keys) : nothing()};
  const Given more{grad_content, grad_place, grad_total, content, place, logsumexp};
  if (x.scalar_type() == ScalarType::Double) {
    using V = DoubleVector;
    backward<V>(s, Image<V>(x, false), Image<V>(to.x, true), given, over == 1, more, need_positions, to);
  } else {
    using V = FloatVector;
    backward<V>(s, Image<V>(x, false), Image<V>(to.x, true), given, over == 1, more, need_positions, to);
  }
  return {to.x, to.keys, to.key_bias, to.positions, to.position_keys};
}

}  // namespace
}  // namespace ganformer

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  m.def(
      "attention_means(Tensor x, Tensor keys, Tensor key_bias, Tensor? positions, Tensor? position_keys, int over) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "attention_means_backward(Tensor grad_content, Tensor grad_place, Tensor grad_total, Tensor x, Tensor keys, "
      "Tensor key_bias, Tensor? positions, Tensor? position_keys, Tensor content, Tensor place, Tensor logsumexp, "
      "int over, bool need_positions) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("attention_means", GANFORMER_BOX(&ganformer::attention_means));
  m.impl("attention_means_backward", GANFORMER_BOX(&ganformer::attention_means_backward));
}
