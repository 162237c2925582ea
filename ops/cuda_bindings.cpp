// The CUDA operators as torch sees them: checks that name the argument, memory for results, the current stream.
//
// Their schemas, and what they compute, stand in the CPU operators' files; the kernels lie behind cuda_launchers.h.
// No header of CUDA's is needed. With GANFORMER_CUDA_ON_CPU (see tests/cuda_on_cpu.h) the same code serves CPU tensors.

#ifndef USE_CUDA
#define USE_CUDA  // declares the current stream
#endif
#include "errors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_launchers.h"

namespace ganformer {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

// ---------------------------------------------------------------------------------------------- device and stream

#ifdef GANFORMER_CUDA_ON_CPU

bool is_here(const Tensor& x) {
  return x.is_cpu();
}

struct OnDevice {
  void* stream = nullptr;

  explicit OnDevice(const Tensor&) {}
};

#else

bool is_here(const Tensor& x) {
  return x.is_cuda();
}

// Makes the device of x the current one.
struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;

  explicit OnDevice(const Tensor& x) : guard(x.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  }
};

#endif

void check_launch(const char* name, int status) {
  STD_TORCH_CHECK(status == 0, name, ": CUDA: ", ganformer_cuda_error(status));
}

// ---------------------------------------------------------------------------------------------- layouts

// Contiguous: [batch][channels][positions]; channels-last: [batch][positions][channels]. Where both fit (one channel,
// one position), the bytes are the same either way.
enum class Layout { contiguous, channels_last, neither };

Layout layout_of(const Tensor& x) {
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  const int64_t dims = x.dim();
  if (x.numel() == 0) {
    return Layout::contiguous;
  }
  bool contiguous = true, last = dims >= 2 && (sizes[1] == 1 || strides[1] == 1);
  int64_t step = 1, step_last = dims >= 2 ? sizes[1] : 1;
  for (int64_t i = dims - 1; i >= 0; --i) {
    contiguous = contiguous && (sizes[i] == 1 || strides[i] == step);
    step *= sizes[i];
    if (i != 1) {
      last = last && (sizes[i] == 1 || strides[i] == step_last);
      step_last *= sizes[i];
    }
  }
  return contiguous ? Layout::contiguous : last ? Layout::channels_last : Layout::neither;
}

Tensor dense(const Tensor& x) {
  return layout_of(x) == Layout::neither ? torch::stable::contiguous(x) : x;
}

// x itself where its bytes lie as those of `model` do (a dense tensor of the same shape), else a copy that does.
Tensor laid_out_as(const Tensor& model, const Tensor& x) {
  if (layout_of(x) == layout_of(model)) {
    return x;
  }
  Tensor copy = torch::stable::empty_like(model);
  torch::stable::copy_(copy, x);
  return copy;
}

// ---------------------------------------------------------------------------------------------- checks

std::string shape_of(const Tensor& x) {
  std::string text = "[";
  for (int64_t i = 0; i < x.dim(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(x.size(i));
  }
  return text + "]";
}

void check_device(const char* name, const char* argument, const Tensor& x, const Tensor& model) {
  STD_TORCH_CHECK(
      is_here(x) && x.get_device_index() == model.get_device_index(), name, ": ", argument,
      " must be on the CUDA device that the others are on");
}

int32_t type_code(const char* name, const char* argument, const Tensor& x) {
  check_device(name, argument, x, x);
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return kFloat32;
    case ScalarType::BFloat16:
      return kBFloat16;
    case ScalarType::Half:
      return kFloat16;
    default:
      STD_TORCH_CHECK(
          false, name, ": ", argument, " must be float32, bfloat16 or float16, and is ", toString(x.scalar_type()));
  }
}

void check_type(const char* name, const char* argument, const Tensor& x, ScalarType type, const Tensor& model) {
  check_device(name, argument, x, model);
  STD_TORCH_CHECK(
      x.scalar_type() == type, name, ": ", argument, " must be ", toString(type), ", and is ",
      toString(x.scalar_type()));
}

void check_shape(const char* name, const char* argument, const Tensor& x, const std::vector<int64_t>& shape) {
  bool same = x.dim() == static_cast<int64_t>(shape.size());
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    same = same && x.size(static_cast<int64_t>(i)) == shape[i];
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  STD_TORCH_CHECK(same, name, ": ", argument, " must be ", text, "], and is ", shape_of(x));
}

std::vector<int64_t> sizes_of(const Tensor& x) {
  return std::vector<int64_t>(x.sizes().begin(), x.sizes().end());
}

Tensor zeros(const Tensor& model, const std::vector<int64_t>& sizes) {
  return torch::stable::new_zeros(model, sizes, ScalarType::Float);
}

Tensor floats(const Tensor& model, const std::vector<int64_t>& sizes) {
  return torch::stable::new_empty(model, sizes, ScalarType::Float);
}

const float* read(const Maybe& x) {
  return x.has_value() ? static_cast<const float*>(x->const_data_ptr()) : nullptr;
}

float* write(const Tensor& x) {
  return x.numel() == 0 ? nullptr : static_cast<float*>(x.mutable_data_ptr());
}

// ---------------------------------------------------------------------------------------------- bias_act

// More packs of 16 bytes than this are beyond 32-bit indices; where x has no such packs, elements.
void check_count(const char* name, const char* argument, const Tensor& x) {
  STD_TORCH_CHECK(
      x.numel() < int64_t(1) << 32, name, ": ", argument, " has ", x.numel(), " elements; 2^32 are too many");
}

GanformerBiasAct bias_act_call(
    const char* name, const char* argument, const Tensor& x, Maybe& noise, const Maybe& strength, int64_t activation,
    double gain, double clamp) {
  GanformerBiasAct call{};
  call.type = type_code(name, argument, x);
  check_count(name, argument, x);
  STD_TORCH_CHECK(activation == 0 || activation == 1, name, ": activation must be 0 (linear) or 1 (lrelu)");
  call.activation = static_cast<int32_t>(activation);
  call.gain = static_cast<float>(gain);
  call.clamp = static_cast<float>(clamp);
  call.batch = x.dim() >= 2 ? x.size(0) : 1;
  call.channels = x.dim() >= 2 ? x.size(1) : 1;
  call.positions = x.numel() == 0 ? 0 : x.numel() / (call.batch * call.channels);
  call.channels_last = layout_of(x) == Layout::channels_last;
  STD_TORCH_CHECK(
      noise.has_value() == strength.has_value(), name, ": noise and strength must be given together, or neither");
  if (noise.has_value()) {
    check_type(name, "noise", *noise, x.scalar_type(), x);
    check_type(name, "strength", *strength, ScalarType::Float, x);
    STD_TORCH_CHECK(strength->numel() == 1, name, ": strength must be one number");
    bool fits = noise->dim() == x.dim() && x.dim() >= 2 && noise->size(1) == 1 &&
        (noise->size(0) == 1 || noise->size(0) == call.batch);
    for (int64_t i = 2; fits && i < x.dim(); ++i) {
      fits = noise->size(i) == x.size(i);
    }
    STD_TORCH_CHECK(
        fits, name, ": noise must be [B or 1, 1, ...] with the positions of ", argument, " ", shape_of(x),
        ", and is ", shape_of(*noise));
    noise = torch::stable::contiguous(*noise);
    call.noise = noise->const_data_ptr();
    call.noise_batch = static_cast<int32_t>(noise->size(0));
    call.strength = read(strength);
  }
  return call;
}

Tensor bias_act(
    Tensor x, Maybe bias, Maybe noise, Maybe strength, int64_t activation, double gain, double clamp) {
  constexpr const char* name = "bias_act";
  const Tensor from = dense(x);
  GanformerBiasAct call = bias_act_call(name, "x", from, noise, strength, activation, gain, clamp);
  if (bias.has_value()) {
    check_type(name, "bias", *bias, ScalarType::Float, x);
    STD_TORCH_CHECK(
        x.dim() >= 2 && bias->dim() == 1 && bias->size(0) == call.channels, name,
        ": bias must have one number for each channel of x ", shape_of(x), ", and is ", shape_of(*bias));
    bias = torch::stable::contiguous(*bias);
    call.bias = read(bias);
  }
  Tensor out = torch::stable::empty_like(from);
  if (x.numel() == 0) {
    return out;
  }
  const OnDevice device(x);
  call.x = from.const_data_ptr();
  call.out = out.mutable_data_ptr();
  check_launch(name, ganformer_bias_act(&call, device.stream));
  return out;
}

// Gradients of x, of the bias (empty unless asked for) and of the strength (empty without noise).
std::tuple<Tensor, Tensor, Tensor> bias_act_backward(
    Tensor grad, Tensor out, Maybe noise, Maybe strength, bool need_bias, int64_t activation, double gain,
    double clamp) {
  constexpr const char* name = "bias_act_backward";
  const Tensor result = dense(out);
  GanformerBiasAct call = bias_act_call(name, "out", result, noise, strength, activation, gain, clamp);
  check_type(name, "grad", grad, out.scalar_type(), out);
  check_shape(name, "grad", grad, sizes_of(out));
  STD_TORCH_CHECK(!need_bias || out.dim() >= 2, name, ": need_bias asks for channels that out does not have");
  const Tensor gradient = laid_out_as(result, grad);
  Tensor dx = torch::stable::empty_like(result);
  Tensor dbias = zeros(out, {need_bias ? call.channels : 0});
  Tensor dstrength = zeros(out, noise.has_value() ? sizes_of(*strength) : std::vector<int64_t>{0});
  if (out.numel() == 0) {
    return {dx, dbias, dstrength};
  }
  const OnDevice device(out);
  call.out = const_cast<void*>(result.const_data_ptr());
  call.grad = gradient.const_data_ptr();
  call.dx = dx.mutable_data_ptr();
  call.dbias = write(dbias);
  call.dstrength = write(dstrength);
  const Tensor workspace = floats(out, {ganformer_bias_act_workspace(&call)});
  call.workspace = write(workspace);
  check_launch(name, ganformer_bias_act_backward(&call, device.stream));
  return {dx, dbias, dstrength};
}

// ---------------------------------------------------------------------------------------------- upfirdn2d

Tensor upfirdn2d(
    Tensor x, Tensor taps, int64_t up, int64_t down, int64_t before_y, int64_t before_x, int64_t height, int64_t width,
    bool flip, double gain) {
  constexpr const char* name = "upfirdn2d";
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  GanformerUpfirdn call{};
  call.type = type_code(name, "x", x);
  STD_TORCH_CHECK(x.dim() == 4, name, ": x must be [B, C, H, W], and is ", shape_of(x));
  check_device(name, "taps", taps, x);
  STD_TORCH_CHECK(taps.dim() == 1 || taps.dim() == 2, name, ": taps must be [k] or [kh, kw], and is ", shape_of(taps));
  STD_TORCH_CHECK(taps.numel() > 0 && taps.numel() < kLargest, name, ": taps must not be empty");
  STD_TORCH_CHECK(up >= 1 && up <= 1 << 16, name, ": up must be 1 to 65536, and is ", up);
  STD_TORCH_CHECK(down >= 1 && down <= 1 << 16, name, ": down must be 1 to 65536, and is ", down);
  STD_TORCH_CHECK(height >= 0 && width >= 0, name, ": height and width must not be negative");
  // Coordinates are 32-bit numbers, up-sampled ones too.
  STD_TORCH_CHECK(
      x.size(2) <= kLargest / up && height <= kLargest / 2 / down && std::abs(before_y) < kLargest / 2, name,
      ": height or before_y is out of range");
  STD_TORCH_CHECK(
      x.size(3) <= kLargest / up && width <= kLargest / 2 / down && std::abs(before_x) < kLargest / 2, name,
      ": width or before_x is out of range");
  const Tensor from = dense(x);
  const bool last = layout_of(from) == Layout::channels_last;
  const Tensor line = torch::stable::contiguous(torch::stable::to(taps, ScalarType::Float));
  Tensor out = torch::stable::empty(
      {x.size(0), x.size(1), height, width}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
      last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous);
  if (out.numel() == 0) {
    return out;
  }
  const OnDevice device(x);
  call.batch = x.size(0);
  call.channels = x.size(1);
  call.in_y = x.size(2);
  call.in_x = x.size(3);
  call.out_y = height;
  call.out_x = width;
  call.up = up;
  call.down = down;
  call.before_y = before_y;
  call.before_x = before_x;
  call.channels_last = last;
  call.separable = taps.dim() == 1;
  call.taps_y = static_cast<int32_t>(taps.size(0));
  call.taps_x = static_cast<int32_t>(taps.size(taps.dim() - 1));
  call.flip = flip;
  call.gain = static_cast<float>(gain);
  call.taps = read(line);
  call.x = from.const_data_ptr();
  call.out = out.mutable_data_ptr();
  check_launch(name, ganformer_upfirdn2d(&call, device.stream));
  return out;
}

// ---------------------------------------------------------------------------------------------- attention

// What both attention operators are given.
struct Keys {
  Tensor keys, key_bias;
  Maybe positions, position_keys;
};

// A tensor of m's size: float, contiguous, of the batch's size or shared by the images.
int32_t check_shared(
    const char* name, const char* argument, const Tensor& x, std::vector<int64_t> shape, const Tensor& model) {
  check_type(name, argument, x, ScalarType::Float, model);
  if (x.dim() > 0 && x.size(0) == 1) {
    shape[0] = 1;
  }
  check_shape(name, argument, x, shape);
  STD_TORCH_CHECK(x.is_contiguous(), name, ": ", argument, " must be contiguous");
  return static_cast<int32_t>(shape[0]);
}

GanformerAttention attention_call(const char* name, const Tensor& x, const Keys& given) {
  GanformerAttention call{};
  call.type = type_code(name, "x", x);
  STD_TORCH_CHECK(x.dim() == 3, name, ": x must be [B, d, n], and is ", shape_of(x));
  const Layout layout = layout_of(x);
  STD_TORCH_CHECK(layout != Layout::neither, name, ": x must be contiguous or channels-last, without gaps");
  call.channels_last = layout == Layout::channels_last;
  call.batch = x.size(0);
  call.channels = x.size(1);
  call.pixels = x.size(2);
  STD_TORCH_CHECK(
      given.keys.dim() == 4 && given.keys.size(1) > 0 && given.keys.size(2) > 0, name,
      ": keys must be [B or 1, h, m, d] with at least one head and component, and is ", shape_of(given.keys));
  call.heads = given.keys.size(1);
  call.components = given.keys.size(2);
  const int64_t rows = call.heads * call.components;
  STD_TORCH_CHECK(rows <= 1 << 16, name, ": keys has ", rows, " components in all heads; more than 65536 are too many");
  STD_TORCH_CHECK(
      call.channels <= 1 << 16 && call.pixels < int64_t(1) << 31, name, ": x ", shape_of(x), " is too large");
  call.key_batch = check_shared(
      name, "keys", given.keys, {call.batch, call.heads, call.components, call.channels}, x);
  call.key_bias_batch =
      check_shared(name, "key_bias", given.key_bias, {call.batch, call.heads, call.components}, x);
  STD_TORCH_CHECK(
      given.positions.has_value() == given.position_keys.has_value(), name,
      ": positions and position_keys must be given together, or neither");
  if (given.positions.has_value()) {
    check_type(name, "positions", *given.positions, ScalarType::Float, x);
    STD_TORCH_CHECK(
        given.positions->dim() == 2 && given.positions->size(0) == call.pixels && given.positions->is_contiguous(),
        name, ": positions must be [n, p], contiguous, with n = ", call.pixels, ", and is ",
        shape_of(*given.positions));
    call.place = given.positions->size(1);
    STD_TORCH_CHECK(call.place <= 1 << 16, name, ": positions is too wide");
    call.position_key_batch = check_shared(
        name, "position_keys", *given.position_keys, {call.batch, call.heads, call.components, call.place}, x);
  }
  call.keys = read(given.keys);
  call.key_bias = read(given.key_bias);
  call.positions = call.place > 0 ? read(given.positions) : nullptr;
  call.position_keys = call.place > 0 ? read(given.position_keys) : nullptr;
  call.x = x.const_data_ptr();
  return call;
}

using WorkspaceSize = int64_t (*)(const GanformerAttention*);
using Launcher = int (*)(const GanformerAttention*, void*);

void run(const char* name, GanformerAttention& call, const Tensor& x, WorkspaceSize size, Launcher launch) {
  const OnDevice device(x);
  const Tensor workspace = floats(x, {size(&call)});
  call.workspace = write(workspace);
  check_launch(name, launch(&call, device.stream));
}

// Gradients that the kernels leave alone where there is nothing to add up.
struct Gradients {
  Tensor dx, keys, key_bias, positions, position_keys;

  Gradients(GanformerAttention& call, const Tensor& x, const Keys& given, bool need_positions)
      : dx(torch::stable::empty_like(x)),
        keys(zeros(x, sizes_of(given.keys))),
        key_bias(zeros(x, sizes_of(given.key_bias))),
        positions(zeros(x, given.positions && need_positions ? sizes_of(*given.positions) : std::vector<int64_t>{0})),
        position_keys(zeros(x, given.position_keys ? sizes_of(*given.position_keys) : std::vector<int64_t>{0})) {
    call.dx = dx.mutable_data_ptr();
    call.dkeys = write(keys);
    call.dkey_bias = write(key_bias);
    call.dpositions = write(positions);
    call.dposition_keys = write(position_keys);
    call.need_positions = call.dpositions != nullptr;
  }
};

void set_style(
    const char* name, GanformerAttention& call, const Tensor& x, const Tensor& values, const Tensor& value_bias,
    const std::string& integration, const std::string& normalization, double dropout, const Maybe& seed) {
  STD_TORCH_CHECK(
      integration == "mul" || integration == "add" || integration == "both", name,
      ": integration must be mul, add or both, and is ", integration);
  STD_TORCH_CHECK(
      normalization == "layer" || normalization == "none", name, ": normalization must be layer or none, and is ",
      normalization);
  STD_TORCH_CHECK(dropout >= 0 && dropout < 1, name, ": dropout must be at least 0 and below 1, and is ", dropout);
  call.integration = integration == "mul" ? kMul : integration == "add" ? kAdd : kBoth;
  call.layer = normalization == "layer";
  call.dropout = dropout;
  if (dropout > 0) {
    STD_TORCH_CHECK(seed.has_value(), name, ": seed must be given where there is dropout");
    check_type(name, "seed", *seed, ScalarType::Long, x);
    STD_TORCH_CHECK(seed->numel() == 1, name, ": seed must be one number");
    call.seed = static_cast<const int64_t*>(seed->const_data_ptr());
  }
  const int64_t outputs = call.integration == kBoth ? 2 * call.channels : call.channels;
  call.value_batch =
      check_shared(name, "values", values, {call.batch, call.heads, call.components, outputs}, x);
  call.value_bias_batch = check_shared(name, "value_bias", value_bias, {call.batch, outputs}, x);
  call.values = read(values);
  call.value_bias = read(value_bias);
}

Tensor bipartite_attention(
    Tensor x, Tensor keys, Tensor key_bias, Maybe positions, Maybe position_keys, Tensor values, Tensor value_bias,
    std::string integration, std::string normalization, double dropout, Maybe seed) {
  constexpr const char* name = "bipartite_attention";
  GanformerAttention call = attention_call(name, x, {keys, key_bias, positions, position_keys});
  set_style(name, call, x, values, value_bias, integration, normalization, dropout, seed);
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() > 0) {
    call.out = out.mutable_data_ptr();
    run(name, call, x, ganformer_attention_workspace, ganformer_attention);
  }
  return out;
}

// Gradients of x, keys, key_bias, positions, position_keys, values and value_bias; empty where there is no input, and
// those of the positions also unless asked for.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> bipartite_attention_backward(
    Tensor grad, Tensor x, Tensor keys, Tensor key_bias, Maybe positions, Maybe position_keys, Tensor values,
    Tensor value_bias, std::string integration, std::string normalization, double dropout, Maybe seed,
    bool need_positions) {
  constexpr const char* name = "bipartite_attention_backward";
  const Keys given{keys, key_bias, positions, position_keys};
  GanformerAttention call = attention_call(name, x, given);
  set_style(name, call, x, values, value_bias, integration, normalization, dropout, seed);
  check_type(name, "grad", grad, x.scalar_type(), x);
  check_shape(name, "grad", grad, sizes_of(x));
  Gradients to(call, x, given, need_positions);
  Tensor dvalues = zeros(x, sizes_of(values)), dvalue_bias = zeros(x, sizes_of(value_bias));
  if (x.numel() > 0) {
    const Tensor gradient = laid_out_as(x, grad);
    call.grad = gradient.const_data_ptr();
    call.dvalues = write(dvalues);
    call.dvalue_bias = write(dvalue_bias);
    run(name, call, x, ganformer_attention_backward_workspace, ganformer_attention_backward);
  }
  return {to.dx, to.keys, to.key_bias, to.positions, to.position_keys, dvalues, dvalue_bias};
}

// Content, place and total, and, where the softmax runs over the positions, the logarithm of its sums (else empty).
std::tuple<Tensor, Tensor, Tensor, Tensor> attention_means(
    Tensor x, Tensor keys, Tensor key_bias, Maybe positions, Maybe position_keys, int64_t over) {
  constexpr const char* name = "attention_means";
  GanformerAttention call = attention_call(name, x, {keys, key_bias, positions, position_keys});
  STD_TORCH_CHECK(over == 0 || over == 1, name, ": over must be 0 (components) or 1 (positions)");
  STD_TORCH_CHECK(over == 0 || call.pixels > 0, name, ": x must have a position where the softmax runs over them");
  call.over_positions = static_cast<int32_t>(over);
  const std::vector<int64_t> rows{call.batch, call.heads, call.components};
  const auto wide = [&](int64_t width) { return std::vector<int64_t>{rows[0], rows[1], rows[2], width}; };
  const Tensor content = zeros(x, wide(call.channels)), place = zeros(x, wide(call.place)), total = zeros(x, rows);
  const Tensor logsumexp = zeros(x, over == 1 ? rows : std::vector<int64_t>{0});
  if (call.batch > 0 && call.pixels > 0) {
    call.content = write(content);
    call.placed = write(place);
    call.total = write(total);
    call.logsumexp = write(logsumexp);
    run(name, call, x, ganformer_attention_means_workspace, ganformer_attention_means);
  }
  return {content, place, total, logsumexp};
}

// Gradients of x, keys, key_bias, positions and position_keys; empty as those of bipartite_attention.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_means_backward(
    Tensor grad_content, Tensor grad_place, Tensor grad_total, Tensor x, Tensor keys, Tensor key_bias, Maybe positions,
    Maybe position_keys, Tensor content, Tensor place, Tensor logsumexp, int64_t over, bool need_positions) {
  constexpr const char* name = "attention_means_backward";
  const Keys given{keys, key_bias, positions, position_keys};
  GanformerAttention call = attention_call(name, x, given);
  STD_TORCH_CHECK(over == 0 || over == 1, name, ": over must be 0 (components) or 1 (positions)");
  call.over_positions = static_cast<int32_t>(over);
  const auto checked = [&](const char* argument, const Tensor& tensor, int64_t width) {
    check_type(name, argument, tensor, ScalarType::Float, x);
    std::vector<int64_t> shape{call.batch, call.heads, call.components};
    if (width >= 0) {
      shape.push_back(width);
    }
    check_shape(name, argument, tensor, shape);
    return torch::stable::contiguous(tensor);
  };
  const Tensor dcontent = checked("grad_content", grad_content, call.channels);
  const Tensor dplace = checked("grad_place", grad_place, call.place);
  const Tensor dtotal = checked("grad_total", grad_total, -1);
  const Tensor kept_content = checked("content", content, call.channels);
  const Tensor kept_place = checked("place", place, call.place);
  if (over == 1) {
    logsumexp = checked("logsumexp", logsumexp, -1);
  }
  Gradients to(call, x, given, need_positions);
  if (call.batch > 0 && call.pixels > 0) {
    call.dcontent = read(dcontent);
    call.dplaced = read(dplace);
    call.dtotal = read(dtotal);
    call.content = const_cast<float*>(read(kept_content));
    call.placed = const_cast<float*>(read(kept_place));
    call.logsumexp = const_cast<float*>(read(logsumexp));
    run(name, call, x, ganformer_attention_means_backward_workspace, ganformer_attention_means_backward);
  }
  return {to.dx, to.keys, to.key_bias, to.positions, to.position_keys};
}

}  // namespace
}  // namespace ganformer

#ifdef GANFORMER_CUDA_ON_CPU
STABLE_TORCH_LIBRARY_IMPL(ganformer_cuda_on_cpu, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(ganformer, CUDA, m) {
#endif
  m.impl("bias_act", GANFORMER_BOX(&ganformer::bias_act));
  m.impl("bias_act_backward", GANFORMER_BOX(&ganformer::bias_act_backward));
  m.impl("upfirdn2d", GANFORMER_BOX(&ganformer::upfirdn2d));
  m.impl("bipartite_attention", GANFORMER_BOX(&ganformer::bipartite_attention));
  m.impl("bipartite_attention_backward", GANFORMER_BOX(&ganformer::bipartite_attention_backward));
  m.impl("attention_means", GANFORMER_BOX(&ganformer::attention_means));
  m.impl("attention_means_backward", GANFORMER_BOX(&ganformer::attention_means_backward));
}
