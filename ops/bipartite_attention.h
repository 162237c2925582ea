// What the forward and the backward pass of bipartite attention share: settings, the components' values, ω, dropout.
#pragma once

#include "attention_tiles.h"

#include <string>

namespace ganformer {

enum class Integration { mul, add, both };

struct Settings {
  Integration integration;
  bool normalized;
  double dropout;
  // A cell is dropped if the upper 24 bits of a hash of seed, image and head, position and component are below this.
  uint32_t start, threshold;
};

inline Settings settings_of(
    const char* name, const std::string& integration, const std::string& normalization, double dropout,
    const std::optional<Tensor>& seed) {
  Settings settings{Integration::mul, normalization == "layer", dropout, 0, 0};
  STD_TORCH_CHECK(
      integration == "mul" || integration == "add" || integration == "both", name,
      ": integration must be mul, add or both");
  if (integration != "mul") {
    settings.integration = integration == "add" ? Integration::add : Integration::both;
  }
  STD_TORCH_CHECK(
      normalization == "layer" || normalization == "none", name, ": normalization must be layer or none");
  STD_TORCH_CHECK(dropout >= 0 && dropout < 1, name, ": dropout must be at least 0 and below 1");
  if (dropout > 0) {
    STD_TORCH_CHECK(seed.has_value(), name, ": dropout needs a seed");
    check_type(name, "seed", *seed, ScalarType::Long);
    STD_TORCH_CHECK(seed->numel() == 1, name, ": seed must be one number");
    const uint64_t bits = static_cast<uint64_t>(*data<int64_t>(*seed));
    settings.start = mix(mix(static_cast<uint32_t>(bits)) ^ static_cast<uint32_t>(bits >> 32));
    settings.threshold = static_cast<uint32_t>(std::nearbyint(dropout * (1 << 24)));
  }
  return settings;
}

// The components' values, for a scale (mul, and the first half of both) and a shift (add, and the second).
template <class V>
struct Values {
  using T = typename V::Scalar;
  int64_t rows;
  Panels<V> scale, shift, scale_bias, shift_bias;

  Values(const Sizes& s, const Settings& settings, const Tensor& values, const Tensor& bias) : rows(s.rows()) {
    const int64_t d = s.channels, stride = values.size(3);
    if (settings.integration != Integration::add) {
      scale = Panels<V>(data<T>(values), values.size(0), rows, d, stride);
      scale_bias = Panels<V>(data<T>(bias), bias.size(0), 1, d, stride);
    }
    if (settings.integration != Integration::mul) {
      shift = Panels<V>(data<T>(values) + stride - d, values.size(0), rows, d, stride);
      shift_bias = Panels<V>(data<T>(bias) + stride - d, bias.size(0), 1, d, stride);
    }
  }
};

// What ω does to each pixel of a tile: the mean that it subtracts and the factor that follows.
template <class V, Integration I>
void statistics(
    const typename V::Scalar* rows, int64_t stride, int64_t count, int64_t channels, bool normalized,
    typename V::Scalar* mean, typename V::Scalar* factor) {
  using T = typename V::Scalar;
  constexpr int W = V::kWidth;
  const T size = static_cast<T>(channels);
  std::fill(mean, mean + count, T(0));
  std::fill(factor, factor + count, T(1));
  for (int64_t i = 0; normalized && i < count; ++i) {
    const T* row = rows + i * stride;
    if constexpr (I != Integration::mul) {
      V total = V::zero(), more = V::zero();
      int64_t c = 0;
      for (; c + 2 * W <= channels; c += 2 * W) {
        total = total + V::load(row + c);
        more = more + V::load(row + c + W);
      }
      for (; c < channels; c += W) {
        total = total + V::load(row + c);  // beyond the channels there are zeros
      }
      mean[i] = sum(total + more) / size;
    }
    if constexpr (I != Integration::add) {
      const V centre = V::all(mean[i]);
      const auto deviation = [&](int64_t c) {
        const V x = V::load(row + c);
        if constexpr (I == Integration::mul) {
          return x;
        } else {
          return x - centre;
        }
      };
      V total = V::zero(), more = V::zero();
      int64_t c = 0;
      for (; c + 2 * W <= channels; c += 2 * W) {
        const V a = deviation(c), b = deviation(c + W);
        total = fma(a, a, total);
        more = fma(b, b, more);
      }
      for (; c < channels; c += W) {
        const V a = keep_first(deviation(c), channels - c);
        total = fma(a, a, total);
      }
      factor[i] = sum(total + more);
    }
  }
  if (normalized && I != Integration::add) {
    for (int64_t i = 0; i < count; ++i) {
      factor[i] = T(1) / std::sqrt(factor[i] / size + T(1e-8));
    }
  }
}

// Drops cells and scales the others, in a tile's weights or in gradients that pass through the same cells: `stride`
// numbers a pixel, `head_stride` a head.
template <class V>
void drop_cells(
    const Sizes& s, const Settings& settings, int64_t b, int64_t first, int64_t count, int64_t stride,
    int64_t head_stride, typename V::Scalar* cells) {
  using T = typename V::Scalar;
  const T survivors = static_cast<T>(1 / (1 - settings.dropout));
  for (int64_t h = 0; h < s.heads; ++h) {
    const uint32_t head = mix(settings.start + static_cast<uint32_t>(b * s.heads + h) * kGolden);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t row = mix(head + static_cast<uint32_t>(first + i));
      T* cell = cells + i * stride + h * head_stride;
      for (int64_t j = 0; j < s.components; j += V::kWidth) {
        drop(V::load_first(cell + j, s.components - j), row, static_cast<uint32_t>(j), settings.threshold, survivors)
            .store_first(cell + j, s.components - j);
      }
    }
  }
}

inline Sizes checked(
    const char* name, const Tensor& x, const KeyTensors& keys, const Tensor& values, const Tensor& value_bias, const Settings& settings) {
  const Sizes s = checked_sizes(name, x, keys);
  const int64_t outputs = settings.integration == Integration::both ? 2 * s.channels : s.channels;
  const ScalarType wide = math_type(x.scalar_type());
  check_argument(name, "values", values, wide, {s.batch, s.heads, s.components, outputs}, true);
  check_argument(name, "value_bias", value_bias, wide, {s.batch, outputs}, true);
  return s;
}

}  // namespace ganformer
