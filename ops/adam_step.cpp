// One step of Adam on all weights of a network, and the weights as they act, in one pass over memory.
//
//   g = gradient · gain;  m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
//   w ← w − lr / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε);  acting = w · gain;  cast = acting in bfloat16
//
// The gradient is that of `acting`. Where nothing but w acts, the gain is 1 and there is no `acting`. With β₁ = 0 m is the
// gradient, and need not be kept.

#include "common.h"

#include <cmath>
#include <utility>

namespace ganformer {
namespace {

// Work is cut into chunks of this many elements; a fixed number makes the norm the same for every number of threads.
constexpr int64_t kChunk = 8192;

// Lanes of a partial sum: enough to fill two vector registers.
constexpr int kLanes = 32;

struct Rule {
  double lr, beta1, beta2, epsilon;
};

struct Weight {
  const float* gradient;
  float *parameter, *first, *second;  // no first moment where β₁ is 0
  float* acting;   // or null
  BFloat16* cast;  // or null
  int64_t size;
  float gain, rate, correction;  // rate: lr / (1 − β₁ᵗ); correction: 1 / √(1 − β₂ᵗ)
};

// Updates a chunk; returns the sum of the squares of its gradients.
template <bool kMomentum>
double update(const Weight& w, const Rule& rule, int64_t begin, int64_t end) {
  const float beta1 = static_cast<float>(rule.beta1), beta2 = static_cast<float>(rule.beta2);
  const float rest1 = static_cast<float>(1 - rule.beta1), rest2 = static_cast<float>(1 - rule.beta2);
  const float epsilon = static_cast<float>(rule.epsilon), gain = w.gain, rate = w.rate, correction = w.correction;
  const float* __restrict gradient = w.gradient;
  float* __restrict parameter = w.parameter;
  float* __restrict first = w.first;
  float* __restrict second = w.second;
  float sums[kLanes] = {};
  const auto one = [&](int64_t i, int lane) {
    const float g = gradient[i] * gain;
    const float m = kMomentum ? beta1 * first[i] + rest1 * g : g;
    const float v = beta2 * second[i] + rest2 * g * g;
    if (kMomentum) {
      first[i] = m;
    }
    second[i] = v;
    parameter[i] -= rate * m / (std::sqrt(v) * correction + epsilon);
    sums[lane] += g * g;
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      one(i + lane, lane);
    }
  }
  for (int lane = 0; i < end; ++i, ++lane) {
    one(i, lane);
  }
  if (w.acting != nullptr) {
    float* __restrict acting = w.acting;
    for (int64_t j = begin; j < end; ++j) {
      acting[j] = parameter[j] * gain;
    }
    if (w.cast != nullptr) {
      BFloat16* __restrict cast = w.cast;
      for (int64_t j = begin; j < end; ++j) {
        store(cast[j], acting[j]);
      }
    }
  }
  double total = 0;
  for (const float sum : sums) {
    total += sum;
  }
  return total;
}

// Whether the bytes of two tensors of one shape lie in the same order.
bool lie_alike(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) {
      return false;
    }
  }
  return true;
}

void check(const char* argument, const Tensor& x, const Tensor& parameter, ScalarType type) {
  check_type("adam_step", argument, x, type);
  check_same_shape("adam_step", argument, x, parameter);
  STD_TORCH_CHECK(lie_alike(x, parameter), "adam_step: ", argument, " must lie in memory as its parameter does");
}

Tensor adam_step(
    std::vector<Tensor> parameters, std::vector<Tensor> gradients, std::vector<std::optional<Tensor>> firsts,
    std::vector<Tensor> seconds, std::vector<Tensor> steps, std::vector<std::optional<Tensor>> acting,
    std::vector<std::optional<Tensor>> casts, std::vector<double> gains, double lr, double beta1, double beta2,
    double epsilon) {
  const size_t count = parameters.size();
  STD_TORCH_CHECK(
      count > 0 && gradients.size() == count && firsts.size() == count && seconds.size() == count &&
          steps.size() == count && acting.size() == count && casts.size() == count && gains.size() == count,
      "adam_step: every parameter must have a gradient, two moments, a step, a gain, and an entry of acting and casts");
  for (size_t i = 0; i < count; ++i) {
    const Tensor& parameter = parameters[i];
    check_type("adam_step", "parameters", parameter, ScalarType::Float);
    check_type("adam_step", "gradients", gradients[i], ScalarType::Float);
    check_same_shape("adam_step", "gradients", gradients[i], parameter);
    if (!lie_alike(gradients[i], parameter)) {
      Tensor copy = torch::stable::empty_like(parameter);
      gradients[i] = torch::stable::copy_(copy, gradients[i]);
    }
    STD_TORCH_CHECK(firsts[i].has_value() == (beta1 != 0), "adam_step: there are first moments unless beta1 is 0");
    if (firsts[i].has_value()) {
      check("first moments", *firsts[i], parameter, ScalarType::Float);
    }
    check("second moments", seconds[i], parameter, ScalarType::Float);
    check_type("adam_step", "steps", steps[i], ScalarType::Float);
    STD_TORCH_CHECK(steps[i].numel() == 1, "adam_step: a step must be one number");
    if (acting[i].has_value()) {
      check("acting", *acting[i], parameter, ScalarType::Float);
    }
    STD_TORCH_CHECK(acting[i].has_value() || !casts[i].has_value(), "adam_step: what is cast must be acting");
    if (casts[i].has_value()) {
      check("casts", *casts[i], parameter, ScalarType::BFloat16);
    }
  }
  const Rule rule{lr, beta1, beta2, epsilon};
  std::vector<Weight> weights;
  std::vector<std::pair<size_t, int64_t>> chunks;
  for (size_t i = 0; i < count; ++i) {
    const double step = *data<float>(steps[i]) + 1.0;
    const int64_t size = parameters[i].numel();
    weights.push_back(Weight{
        data<float>(gradients[i]), mutable_data<float>(parameters[i]),
        firsts[i].has_value() ? mutable_data<float>(*firsts[i]) : nullptr, mutable_data<float>(seconds[i]),
        acting[i].has_value() ? mutable_data<float>(*acting[i]) : nullptr,
        casts[i].has_value() ? mutable_data<BFloat16>(*casts[i]) : nullptr, size, static_cast<float>(gains[i]),
        static_cast<float>(lr / (1 - std::pow(beta1, step))),
        static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)))});
    for (int64_t begin = 0; begin < size; begin += kChunk) {
      chunks.emplace_back(i, begin);
    }
  }
  std::vector<double> sums(chunks.size());
  const Tensor norm = torch::stable::new_zeros(parameters[0], {}, ScalarType::Float);
  // Nothing has been changed so far, and nothing fails from here on.
  for (const Tensor& step : steps) {
    *mutable_data<float>(step) += 1;
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / kChunk);
  parallel_for(0, static_cast<int64_t>(chunks.size()), grain, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const auto [index, begin] = chunks[i];
      const int64_t end = std::min(weights[index].size, begin + kChunk);
      auto* run = beta1 == 0 ? &update<false> : &update<true>;
      sums[i] = run(weights[index], rule, begin, end);
    }
  });
  double total = 0;
  for (const double sum : sums) {
    total += sum;
  }
  *mutable_data<float>(norm) = static_cast<float>(std::sqrt(total));
  return norm;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  // Lists with one entry a weight, all float32 except casts, which are bfloat16; returns the norm of all gradients, [].
  m.def(
      "adam_step(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)?[] firsts, Tensor(c!)[] seconds, Tensor(d!)[] steps,"
      " Tensor(e!)?[] acting, Tensor(f!)?[] casts, float[] gains, float lr, float beta1, float beta2, float epsilon)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("adam_step", GANFORMER_BOX(&adam_step));
}

}  // namespace ganformer
