// Noise, bias, activation, gain and clamp in one pass over the image, and their gradients in one pass.
//
//   out = clamp(act(x + strength · noise + bias) · gain),  act linear or a leaky ReLU of slope 0.2
//
// The backward pass needs `out` alone: the activation keeps the sign, and the clamp's limit shows where it acted.

#include "common.h"

#include <cmath>
#include <tuple>

namespace ganformer {
namespace {

constexpr double kSlope = 0.2;

// Work is cut into chunks of this many elements; a fixed number makes sums the same for every number of threads.
constexpr int64_t kChunk = 32768;

// Lanes of a partial sum: enough to fill two vector registers and to hide the latency of an addition.
constexpr int kLanes = 32;

// Numbers that are added up one after the other, before their sum goes into one of double precision.
constexpr int64_t kRun = 8;

// What happens to one number after the additions.
template <class T>
struct Rule {
  using A = Math<T>;
  A positive, negative, limit;

  Rule(int64_t activation, double gain, double clamp) {
    positive = static_cast<A>(gain);
    negative = static_cast<A>(activation == 1 ? gain * kSlope : gain);
    // The limit as T has it: results that were clamped are found again by comparing with it.
    limit = std::numeric_limits<A>::infinity();
    if (clamp >= 0) {
      T rounded;
      store(rounded, static_cast<A>(clamp));
      limit = load(rounded);
    }
  }

  // Comparisons are such that a NaN stays one.
  A value(A v) const {
    v *= v > 0 ? positive : negative;
    v = v > limit ? limit : v;
    return v < -limit ? -limit : v;
  }
};

// The derivative that a result tells.
template <class T>
struct Gate {
  using A = Math<T>;
  A positive, negative, limit;

  Gate(int64_t activation, double gain, double clamp) {
    const Rule<T> rule(activation, gain, clamp);
    positive = rule.positive;
    negative = rule.negative;
    // No result is compared as larger than NaN: without a clamp, an infinite one has its gradient, too.
    limit = clamp >= 0 ? rule.limit : std::numeric_limits<A>::quiet_NaN();
  }

  A factor(A out) const {
    const A f = out > 0 ? positive : negative;
    return std::abs(out) >= limit ? A(0) : f;
  }
};

struct Sizes {
  int64_t batch, channels, positions;
  bool rows;  // channels next to each other
};

Sizes sizes_of(const Tensor& x) {
  Sizes s{1, 1, 1, false};
  if (x.dim() >= 2) {
    s.batch = x.size(0);
    s.channels = x.size(1);
    for (int64_t i = 2; i < x.dim(); ++i) {
      s.positions *= x.size(i);
    }
    s.rows = s.positions == 1 || layout_of(x) == Layout::channels_last;
  } else {
    s.positions = x.numel();
  }
  return s;
}

// noise [B or 1, 1, ...] has one number a position, of the type of x, next to each other.
std::optional<Tensor> checked_noise(
    const char* name, const Tensor& x, const Sizes& s, const std::optional<Tensor>& noise,
    const std::optional<Tensor>& strength) {
  STD_TORCH_CHECK(
      noise.has_value() == strength.has_value(), name, ": noise and strength must be given together, or neither");
  if (!noise.has_value()) {
    return std::nullopt;
  }
  check_type(name, "noise", *noise, x.scalar_type());
  check_type(name, "strength", *strength, math_type(x.scalar_type()));
  STD_TORCH_CHECK(strength->numel() == 1, name, ": strength must be one number");
  bool fits = noise->dim() == x.dim() && x.dim() >= 2 && noise->size(1) == 1 &&
      (noise->size(0) == 1 || noise->size(0) == s.batch);
  for (int64_t i = 2; fits && i < x.dim(); ++i) {
    fits = noise->size(i) == x.size(i);
  }
  STD_TORCH_CHECK(fits, name, ": noise must be [B or 1, 1, ...] with the positions of x");
  return torch::stable::contiguous(*noise);
}

void check_rule(const char* name, int64_t activation, double gain) {
  STD_TORCH_CHECK(gain > 0, name, ": gain must be positive, and is ", gain);
  STD_TORCH_CHECK(activation == 0 || activation == 1, name, ": activation must be 0 (linear) or 1 (lrelu)");
}

// A plane of positions cut into pieces, so that few large planes keep all threads busy, too.
struct Pieces {
  int64_t length, a_plane, total, grain;

  explicit Pieces(const Sizes& s) {
    a_plane = std::max<int64_t>(1, ceil_div(s.positions, kChunk));
    length = std::max<int64_t>(1, ceil_div(ceil_div(s.positions, a_plane), kLanes) * kLanes);
    a_plane = std::max<int64_t>(1, ceil_div(s.positions, length));
    total = s.batch * s.channels * a_plane;
    grain = std::max<int64_t>(1, kGrain / length);
  }
};

// ---------------------------------------------------------------------------------------------- forward

template <class T>
void forward_planes(
    const Sizes& s, const T* x, const Math<T>* bias, const T* noise, int64_t noise_step, Math<T> strength, Rule<T> rule,
    T* out) {
  using A = Math<T>;
  const Pieces pieces(s);
  parallel_for(0, pieces.total, pieces.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / pieces.a_plane;
      const int64_t start = i % pieces.a_plane * pieces.length;
      const int64_t length = std::min(pieces.length, s.positions - start);
      const T* __restrict from = x + plane * s.positions + start;
      T* __restrict to = out + plane * s.positions + start;
      const A b = bias == nullptr ? A(0) : bias[plane % s.channels];
      if (noise == nullptr) {
        for (int64_t j = 0; j < length; ++j) {
          store(to[j], rule.value(load(from[j]) + b));
        }
      } else {
        const T* __restrict n = noise + plane / s.channels * noise_step + start;
        for (int64_t j = 0; j < length; ++j) {
          store(to[j], rule.value(load(from[j]) + strength * load(n[j]) + b));
        }
      }
    }
  });
}

// out = rule(x + bias + shift), the bias another one for each number.
template <class T>
void forward_row(
    const T* __restrict x, const Math<T>* __restrict bias, Math<T> shift, int64_t length, Rule<T> rule,
    T* __restrict out) {
  for (int64_t i = 0; i < length; ++i) {
    store(out[i], rule.value(load(x[i]) + shift + bias[i]));
  }
}

template <class T>
void forward_rows(
    const Sizes& s, const T* x, const Math<T>* bias, const T* noise, int64_t noise_step, Math<T> strength, Rule<T> rule,
    T* out) {
  using A = Math<T>;
  const int64_t rows = s.batch * s.positions;
  // Short rows are taken several at once, with what is added to them written as often: longer loops cost less.
  const int64_t together = s.channels < 64 ? 512 / s.channels : 1;
  const int64_t length = together * s.channels;
  Aligned<A> repeated;
  repeated.resize(length);
  for (int64_t i = 0; i < length; ++i) {
    repeated.data()[i] = bias == nullptr ? A(0) : bias[i % s.channels];
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / length);
  parallel_for(0, ceil_div(rows, together), grain, [&](int64_t begin, int64_t end) {
    Aligned<A> added;
    added.resize(length);
    for (int64_t row = begin * together; row < std::min(rows, end * together); row += together) {
      const int64_t some = std::min(together, rows - row);
      const A* b = repeated.data();
      A shift = 0;
      if (noise != nullptr) {
        for (int64_t j = 0; j < some; ++j) {
          shift = strength * load(noise[(row + j) / s.positions * noise_step + (row + j) % s.positions]);
          for (int64_t c = 0; together > 1 && c < s.channels; ++c) {
            added.data()[j * s.channels + c] = b[c] + shift;
          }
        }
        if (together > 1) {
          b = added.data();
          shift = 0;
        }
      }
      forward_row(x + row * s.channels, b, shift, some * s.channels, rule, out + row * s.channels);
    }
  });
}

Tensor bias_act(
    Tensor x, std::optional<Tensor> bias, std::optional<Tensor> noise, std::optional<Tensor> strength,
    int64_t activation, double gain, double clamp) {
  constexpr const char* name = "bias_act";
  check_element_type(name, "x", x);
  check_rule(name, activation, gain);
  const Tensor from = dense(x);
  Sizes s = sizes_of(from);
  if (bias.has_value()) {
    check_type(name, "bias", *bias, math_type(x.scalar_type()));
    STD_TORCH_CHECK(
        x.dim() >= 2 && bias->dim() == 1 && bias->size(0) == s.channels, name,
        ": bias must have one number for each channel of x");
    bias = torch::stable::contiguous(*bias);
  }
  noise = checked_noise(name, x, s, noise, strength);
  Tensor out = torch::stable::empty_like(from);
  if (x.numel() == 0) {
    return out;
  }
  if (!bias.has_value() && !noise.has_value()) {
    s = Sizes{1, 1, x.numel(), false};
  }
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    using A = Math<T>;
    const A* b = bias.has_value() ? data<A>(*bias) : nullptr;
    const T* n = noise.has_value() ? data<T>(*noise) : nullptr;
    const A scale = noise.has_value() ? *data<A>(*strength) : A(0);
    const int64_t step = noise.has_value() && noise->size(0) > 1 ? s.positions : 0;
    const Rule<T> rule(activation, gain, clamp);
    auto* run = &forward_planes<T>;
    if (s.rows) {
      run = &forward_rows<T>;
    }
    run(s, data<T>(from), b, n, step, scale, rule, mutable_data<T>(out));
  });
  return out;
}

// ---------------------------------------------------------------------------------------------- backward

// Sums that the backward pass may want: over everything but the channels, and weighted with the noise over everything.
struct Wanted {
  bool bias, strength;
};

template <class T, bool kNoise>
void backward_piece(
    const T* __restrict grad, const T* __restrict out, const T* __restrict noise, int64_t length, Gate<T> gate,
    T* __restrict dx, double* sum, double* weighted) {
  using A = Math<T>;
  double all_sums[kLanes] = {}, all_dots[kLanes] = {};
  for (int64_t begin = 0; begin < length; begin += kRun * kLanes) {
    const int64_t end = std::min(begin + kRun * kLanes, length);
    A sums[kLanes] = {}, dots[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const A g = load(grad[i + j]) * gate.factor(load(out[i + j]));
        store(dx[i + j], g);
        sums[j] += g;
        if (kNoise) {
          dots[j] += g * load(noise[i + j]);
        }
      }
    }
    for (int j = 0; i < end; ++i, ++j) {
      const A g = load(grad[i]) * gate.factor(load(out[i]));
      store(dx[i], g);
      sums[j] += g;
      if (kNoise) {
        dots[j] += g * load(noise[i]);
      }
    }
    for (int j = 0; j < kLanes; ++j) {
      all_sums[j] += sums[j];
      if (kNoise) {
        all_dots[j] += dots[j];
      }
    }
  }
  *sum = *weighted = 0;
  for (int j = 0; j < kLanes; ++j) {
    *sum += all_sums[j];
    *weighted += all_dots[j];
  }
}

template <class T>
void backward_planes(
    const Sizes& s, const T* grad, const T* out, const T* noise, int64_t noise_step, Gate<T> gate, Wanted wanted, T* dx,
    Math<T>* dbias, Math<T>* dstrength) {
  using A = Math<T>;
  const Pieces pieces(s);
  std::vector<double> sums(pieces.total), dots(pieces.total);
  parallel_for(0, pieces.total, pieces.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / pieces.a_plane;
      const int64_t start = i % pieces.a_plane * pieces.length;
      const int64_t length = std::min(pieces.length, s.positions - start);
      const int64_t at = plane * s.positions + start;
      if (noise != nullptr) {
        const T* n = noise + plane / s.channels * noise_step + start;
        backward_piece<T, true>(grad + at, out + at, n, length, gate, dx + at, &sums[i], &dots[i]);
      } else {
        backward_piece<T, false>(grad + at, out + at, nullptr, length, gate, dx + at, &sums[i], &dots[i]);
      }
    }
  });
  if (wanted.bias) {
    for (int64_t c = 0; c < s.channels; ++c) {
      double total = 0;
      for (int64_t b = 0; b < s.batch; ++b) {
        for (int64_t i = 0; i < pieces.a_plane; ++i) {
          total += sums[(b * s.channels + c) * pieces.a_plane + i];
        }
      }
      dbias[c] = static_cast<A>(total);
    }
  }
  if (wanted.strength) {
    double total = 0;
    for (const double dot : dots) {
      total += dot;
    }
    *dstrength = static_cast<A>(total);
  }
}

template <class T, bool kBias, bool kNoise>
void backward_row(
    const T* __restrict grad, const T* __restrict out, Math<T> noise, int64_t channels, Gate<T> gate, T* __restrict dx,
    Math<T>* __restrict sums, Math<T>* __restrict dots) {
  for (int64_t c = 0; c < channels; ++c) {
    const Math<T> g = load(grad[c]) * gate.factor(load(out[c]));
    store(dx[c], g);
    if (kBias) {
      sums[c] += g;
    }
    if (kNoise) {
      dots[c] += g * noise;
    }
  }
}

template <class A>
void add(const A* __restrict from, int64_t length, double* __restrict to) {
  for (int64_t i = 0; i < length; ++i) {
    to[i] += from[i];
  }
}

template <class T>
void backward_rows(
    const Sizes& s, const T* grad, const T* out, const T* noise, int64_t noise_step, Gate<T> gate, Wanted wanted, T* dx,
    Math<T>* dbias, Math<T>* dstrength) {
  using A = Math<T>;
  const int64_t rows = s.batch * s.positions;
  const int64_t a_chunk = std::max<int64_t>(1, kChunk / s.channels);
  const int64_t chunks = ceil_div(rows, a_chunk);
  const int64_t grain = std::max<int64_t>(1, kGrain / (a_chunk * s.channels));
  std::vector<double> sums(wanted.bias ? chunks * s.channels : 0);
  std::vector<double> dots(wanted.strength ? chunks * s.channels : 0);
  parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
    Aligned<A> sum, dot;
    sum.resize(s.channels);
    dot.resize(s.channels);
    auto* row = &backward_row<T, false, false>;
    if (wanted.bias) {
      row = wanted.strength ? &backward_row<T, true, true> : &backward_row<T, true, false>;
    } else if (wanted.strength) {
      row = &backward_row<T, false, true>;
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t last = std::min(rows, (i + 1) * a_chunk);
      for (int64_t start = i * a_chunk; start < last; start += kRun) {
        std::fill(sum.data(), sum.data() + s.channels, A(0));
        std::fill(dot.data(), dot.data() + s.channels, A(0));
        for (int64_t r = start; r < std::min(last, start + kRun); ++r) {
          const int64_t at = r * s.channels;
          const A n = wanted.strength ? load(noise[r / s.positions * noise_step + r % s.positions]) : A(0);
          row(grad + at, out + at, n, s.channels, gate, dx + at, sum.data(), dot.data());
        }
        if (wanted.bias) {
          add(sum.data(), s.channels, &sums[i * s.channels]);
        }
        if (wanted.strength) {
          add(dot.data(), s.channels, &dots[i * s.channels]);
        }
      }
    }
  });
  std::vector<double> totals(s.channels);
  const auto add_up = [&](const std::vector<double>& parts) {
    std::fill(totals.begin(), totals.end(), 0.0);
    for (int64_t i = 0; i < chunks; ++i) {
      add(&parts[i * s.channels], s.channels, totals.data());
    }
  };
  if (wanted.bias) {
    add_up(sums);
    for (int64_t c = 0; c < s.channels; ++c) {
      dbias[c] = static_cast<A>(totals[c]);
    }
  }
  if (wanted.strength) {
    add_up(dots);
    double total = 0;
    for (const double value : totals) {
      total += value;
    }
    *dstrength = static_cast<A>(total);
  }
}

// Gradients of x, of the bias (empty unless asked for) and of the strength (empty without noise).
std::tuple<Tensor, Tensor, Tensor> bias_act_backward(
    Tensor grad, Tensor out, std::optional<Tensor> noise, std::optional<Tensor> strength, bool need_bias,
    int64_t activation, double gain, double clamp) {
  constexpr const char* name = "bias_act_backward";
  check_element_type(name, "out", out);
  check_rule(name, activation, gain);
  check_type(name, "grad", grad, out.scalar_type());
  check_same_shape(name, "grad", grad, out);
  out = dense(out);
  grad = laid_out_as(out, grad);
  Sizes s = sizes_of(out);
  STD_TORCH_CHECK(!need_bias || out.dim() >= 2, name, ": need_bias asks for channels that out does not have");
  noise = checked_noise(name, out, s, noise, strength);
  const ScalarType type = math_type(out.scalar_type());
  Tensor dx = torch::stable::empty_like(out);
  Tensor dbias = torch::stable::new_zeros(out, {need_bias ? s.channels : 0}, type);
  Tensor dstrength = noise.has_value() ? torch::stable::new_zeros(out, strength->sizes(), type)
                                       : torch::stable::new_zeros(out, {0}, type);
  if (out.numel() == 0) {
    return {dx, dbias, dstrength};
  }
  if (!need_bias && !noise.has_value()) {
    s = Sizes{1, 1, out.numel(), false};
  }
  dispatch(out, [&](auto element) {
    using T = decltype(element);
    using A = Math<T>;
    const Wanted wanted{need_bias, noise.has_value()};
    const T* n = noise.has_value() ? data<T>(*noise) : nullptr;
    const int64_t step = noise.has_value() && noise->size(0) > 1 ? s.positions : 0;
    const Gate<T> gate(activation, gain, clamp);
    auto* run = &backward_planes<T>;
    if (s.rows) {
      run = &backward_rows<T>;
    }
    run(s, data<T>(grad), data<T>(out), n, step, gate, wanted, mutable_data<T>(dx), mutable_data<A>(dbias),
        mutable_data<A>(dstrength));
  });
  return {dx, dbias, dstrength};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  // x [B, C, ...]; bias [C] and strength [] in the type that x is computed in (float32, for float64 float64);
  // noise [B or 1, 1, ...] in the type of x; activation 0 linear, 1 lrelu; clamp < 0: none.
  m.def(
      "bias_act(Tensor x, Tensor? bias, Tensor? noise, Tensor? strength, int activation, float gain, float clamp)"
      " -> Tensor");
  // The gradients of x, bias (empty unless asked for) and strength (empty without noise), from the result alone.
  m.def(
      "bias_act_backward(Tensor grad, Tensor out, Tensor? noise, Tensor? strength, bool need_bias, int activation,"
      " float gain, float clamp) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("bias_act", GANFORMER_BOX(&bias_act));
  m.impl("bias_act_backward", GANFORMER_BOX(&bias_act_backward));
}

}  // namespace ganformer
