// The seam between the CUDA kernels (*.cu) and what calls them (cuda_bindings.cpp; in tests, ctypes).
//
// Plain C: raw device pointers, sizes, and a stream. Null pointers stand for what is not there. A launcher gives 0, or
// an error of CUDA's that ganformer_cuda_error puts into words; it checks nothing: the bindings do. Memory that a
// launcher needs besides inputs and outputs, its caller allocates: ..._workspace says how many floats.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum GanformerType { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum GanformerIntegration { kMul = 0, kAdd = 1, kBoth = 2 };

// bias_act: x and out [batch][channels][positions], or [batch][positions][channels] if channels_last.
struct GanformerBiasAct {
  int64_t batch, channels, positions;
  int32_t type, channels_last;
  int32_t activation;   // 0 linear, 1 lrelu
  int32_t noise_batch;  // 1 or batch
  float gain, clamp;    // clamp < 0: none
  const void *x, *noise;
  const float *bias, *strength;
  void* out;
  // Backward: from grad and out to dx and the sums that are asked for.
  const void* grad;
  void* dx;
  float *dbias, *dstrength, *workspace;
};
int64_t ganformer_bias_act_workspace(const struct GanformerBiasAct* call);
int ganformer_bias_act(const struct GanformerBiasAct* call, void* stream);
int ganformer_bias_act_backward(const struct GanformerBiasAct* call, void* stream);

// upfirdn2d: x [batch][channels][in_y][in_x], or [batch][in_y][in_x][channels]; out likewise.
struct GanformerUpfirdn {
  int64_t batch, channels, in_y, in_x, out_y, out_x;
  int64_t up, down, before_y, before_x;
  int32_t type, channels_last;
  int32_t taps_y, taps_x;   // size of the filter
  int32_t separable, flip;  // separable: taps [taps_x] for both axes, else [taps_y][taps_x]; flip: correlation
  float gain;
  const float* taps;
  const void* x;
  void* out;
};
int ganformer_upfirdn2d(const struct GanformerUpfirdn* call, void* stream);

// Both attention operators. Every tensor is contiguous, but x, out and their gradients may be channels-last: then they
// are [batch][pixels][channels]. `..._batch` is 1 or batch. What is of m's size, and positions, is float.
struct GanformerAttention {
  int64_t batch, channels, pixels, heads, components;
  int64_t place;  // width of a position; 0: there are none
  int32_t type, channels_last;
  int32_t integration, layer;  // layer: features are normalised over the channels
  int32_t over_positions;      // attention_means: the softmax runs over the positions
  int32_t key_batch, key_bias_batch, position_key_batch, value_batch, value_bias_batch;
  int32_t need_positions;  // backward: dpositions is wanted
  double dropout;
  const void* x;
  const float *keys, *key_bias, *positions, *position_keys, *values, *value_bias;
  const int64_t* seed;
  void* out;
  // attention_means: results of the forward pass, which its backward pass reads.
  float *content, *placed, *total, *logsumexp;
  // Gradients: grad of out; dcontent, dplaced, dtotal of the means; the others are results.
  const void* grad;
  const float *dcontent, *dplaced, *dtotal;
  void* dx;
  float *dkeys, *dkey_bias, *dpositions, *dposition_keys, *dvalues, *dvalue_bias;
  float* workspace;
};
int64_t ganformer_attention_workspace(const struct GanformerAttention* call);
int ganformer_attention(const struct GanformerAttention* call, void* stream);
int64_t ganformer_attention_backward_workspace(const struct GanformerAttention* call);
int ganformer_attention_backward(const struct GanformerAttention* call, void* stream);
int64_t ganformer_attention_means_workspace(const struct GanformerAttention* call);
int ganformer_attention_means(const struct GanformerAttention* call, void* stream);
int64_t ganformer_attention_means_backward_workspace(const struct GanformerAttention* call);
int ganformer_attention_means_backward(const struct GanformerAttention* call, void* stream);

const char* ganformer_cuda_error(int status);

#ifdef __cplusplus
}
#endif
