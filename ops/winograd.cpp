// Convolutions of 3×3 with stride 1 and padding 1, and their gradients, by the minimal filtering F(2×2, 3×3) of Lavin and
// Gray 2015 ("Fast Algorithms for Convolutional Neural Networks"), which needs 16 products where 36 are usual.
//
//   Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A     for each tile d of 4×4 inputs, which overlap by 2, and Y of 2×2 results
//
// Over channels, ⊙ becomes 16 products of matrices. The transforms cost additions alone, and are made a few tiles at a
// time, so that what they widen stays in the cache. All of it is float32 and channels-last. A result does not depend on
// the number of threads.

#include "common.h"
#include "simd.h"

#include <memory>
#include <utility>

namespace ganformer {
namespace {

using V = FloatVector;
constexpr int64_t kW = V::kWidth;
constexpr int64_t kCells = 16;      // of a transformed tile
constexpr int64_t kPanel = 2 * kW;  // columns of a product that one pass over the rows makes
// Rows of a product that are held in registers, and the registers of the machine: two for each row.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
constexpr int64_t kTiles = 48;                      // whose transforms are in work at once; a multiple of kRows
constexpr int64_t kChunkBytes = int64_t(512) << 10; // of the transforms in work at once, for a weight's gradient

int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Working memory that begins with a cache line, and that nobody fills with zeros: numbers that were never written only
// reach rows and columns that are never read.
class Scratch {
 public:
  explicit Scratch(int64_t size) : memory_(new float[static_cast<size_t>(size) + kLine]) {}
  float* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get()) / sizeof(float);
    return memory_.get() + (kLine - address % kLine) % kLine;
  }

 private:
  static constexpr size_t kLine = 64 / sizeof(float);
  std::unique_ptr<float[]> memory_;
};

// ---------------------------------------------------------------------------------------------- products

// kRows × kPanel of out (+)= a · b: a's rows and steps lie `row` and `step` apart, b's rows kPanel numbers or `b_step`.
template <bool kAdds>
GANFORMER_INLINE void product(
    const float* a, int64_t row, int64_t step, const float* b, int64_t b_step, int64_t steps, float* out, int64_t width) {
  V left[kRows], right[kRows];
  GANFORMER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    left[r] = kAdds ? V::load(out + r * width) : V::zero();
    right[r] = kAdds ? V::load(out + r * width + kW) : V::zero();
  }
  for (int64_t k = 0; k < steps; ++k) {
    const V b0 = V::load(b + k * b_step), b1 = V::load(b + k * b_step + kW);
    GANFORMER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const V factor = V::all(a[r * row + k * step]);
      left[r] = fma(factor, b0, left[r]);
      right[r] = fma(factor, b1, right[r]);
    }
  }
  GANFORMER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    left[r].store(out + r * width);
    right[r].store(out + r * width + kW);
  }
}

// ---------------------------------------------------------------------------------------------- transforms

// Bᵀ d B, in place: inputs.
GANFORMER_INLINE void transform_input(V (&d)[kCells]) {
  GANFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    V *a = &d[i], *b = &d[4 + i], *c = &d[8 + i], *e = &d[12 + i];
    const V first = *a - *c, second = *b + *c, third = *c - *b, fourth = *b - *e;
    *a = first, *b = second, *c = third, *e = fourth;
  }
  GANFORMER_UNROLL
  for (int i = 0; i < kCells; i += 4) {
    const V first = d[i] - d[i + 2], second = d[i + 1] + d[i + 2], third = d[i + 2] - d[i + 1];
    const V fourth = d[i + 1] - d[i + 3];
    d[i] = first, d[i + 1] = second, d[i + 2] = third, d[i + 3] = fourth;
  }
}

// Aᵀ m A: 2×2 results.
GANFORMER_INLINE void transform_output(const V (&m)[kCells], V (&y)[4]) {
  V t[8];
  GANFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    t[i] = m[i] + m[4 + i] + m[8 + i];
    t[4 + i] = m[4 + i] - m[8 + i] - m[12 + i];
  }
  GANFORMER_UNROLL
  for (int i = 0; i < 2; ++i) {
    y[2 * i] = t[4 * i] + t[4 * i + 1] + t[4 * i + 2];
    y[2 * i + 1] = t[4 * i + 1] - t[4 * i + 2] - t[4 * i + 3];
  }
}

// A y Aᵀ: the adjoint of transform_output.
GANFORMER_INLINE void transform_gradient(const V (&y)[4], V (&m)[kCells]) {
  V t[8];  // 4×2
  GANFORMER_UNROLL
  for (int i = 0; i < 2; ++i) {
    t[i] = y[i];
    t[2 + i] = y[i] + y[2 + i];
    t[4 + i] = y[i] - y[2 + i];
    t[6 + i] = V::zero() - y[2 + i];
  }
  GANFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    const V a = t[2 * i], b = t[2 * i + 1];
    m[4 * i] = a, m[4 * i + 1] = a + b, m[4 * i + 2] = a - b, m[4 * i + 3] = V::zero() - b;
  }
}

// G g Gᵀ of a kernel of 3×3.
GANFORMER_INLINE void transform_weight(const V (&g)[9], V (&u)[kCells]) {
  const V half = V::all(0.5f);
  V t[12];  // 4×3
  GANFORMER_UNROLL
  for (int i = 0; i < 3; ++i) {
    const V ends = (g[i] + g[6 + i]) * half, middle = g[3 + i] * half;
    t[i] = g[i], t[3 + i] = ends + middle, t[6 + i] = ends - middle, t[9 + i] = g[6 + i];
  }
  GANFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    const V a = t[3 * i], b = t[3 * i + 1], c = t[3 * i + 2];
    const V ends = (a + c) * half, middle = b * half;
    u[4 * i] = a, u[4 * i + 1] = ends + middle, u[4 * i + 2] = ends - middle, u[4 * i + 3] = c;
  }
}

// Gᵀ u G: the adjoint of transform_weight.
GANFORMER_INLINE void transform_weight_gradient(const V (&u)[kCells], V (&g)[9]) {
  const V half = V::all(0.5f);
  V t[12];  // 3×4
  GANFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    const V a = u[i], b = u[4 + i], c = u[8 + i], d = u[12 + i];
    const V sum = (b + c) * half;
    t[i] = a + sum, t[4 + i] = (b - c) * half, t[8 + i] = sum + d;
  }
  GANFORMER_UNROLL
  for (int i = 0; i < 3; ++i) {
    const V a = t[4 * i], b = t[4 * i + 1], c = t[4 * i + 2], d = t[4 * i + 3];
    const V sum = (b + c) * half;
    g[3 * i] = a + sum, g[3 * i + 1] = (b - c) * half, g[3 * i + 2] = sum + d;
  }
}

// ---------------------------------------------------------------------------------------------- images

// Images [B, H, W, C] cut into tiles of 2×2 results.
struct Tiles {
  int64_t height, width, channels, rows, columns, count;

  explicit Tiles(const Tensor& x)
      : height(x.size(2)),
        width(x.size(3)),
        channels(x.size(1)),
        rows(ceil_div(height, 2)),
        columns(ceil_div(width, 2)),
        count(x.size(0) * rows * columns) {}

  // Calls run(i, j, address) for the size² pixels from (`before` above and left of tile number `tile`) on, with null for
  // those outside of the image.
  template <int size, class Pointer, class Run>
  GANFORMER_INLINE void pixels(Pointer image, int64_t tile, int64_t before, const Run& run) const {
    const int64_t column = tile % columns, row = tile / columns % rows;
    image += tile / (columns * rows) * height * width * channels;
    GANFORMER_UNROLL
    for (int i = 0; i < size; ++i) {
      GANFORMER_UNROLL
      for (int j = 0; j < size; ++j) {
        const int64_t y = 2 * row + i - before, x = 2 * column + j - before;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        run(size * i + j, inside ? image + (y * width + x) * channels : nullptr);
      }
    }
  }
};

// Transforms the inputs of tiles begin to end into out [16][rows][width], a tile a row.
void read_inputs(const float* x, const Tiles& tiles, int64_t begin, int64_t end, float* out, int64_t rows, int64_t width) {
  for (int64_t tile = begin; tile < end; ++tile, out += width) {
    const float* from[kCells];
    tiles.pixels<4>(x, tile, 1, [&](int i, const float* pixel) { from[i] = pixel; });
    for (int64_t c = 0; c < tiles.channels; c += kW) {
      V d[kCells];
      GANFORMER_UNROLL
      for (int i = 0; i < kCells; ++i) {
        d[i] = from[i] == nullptr ? V::zero() : V::load_first(from[i] + c, tiles.channels - c);
      }
      transform_input(d);
      GANFORMER_UNROLL
      for (int i = 0; i < kCells; ++i) {
        d[i].store(out + i * rows * width + c);
      }
    }
  }
}

// Likewise the gradients by the results of tiles.
void read_gradients(
    const float* y, const Tiles& tiles, int64_t begin, int64_t end, float* out, int64_t rows, int64_t width) {
  for (int64_t tile = begin; tile < end; ++tile, out += width) {
    const float* from[4];
    tiles.pixels<2>(y, tile, 0, [&](int i, const float* pixel) { from[i] = pixel; });
    for (int64_t c = 0; c < tiles.channels; c += kW) {
      V given[4], m[kCells];
      GANFORMER_UNROLL
      for (int i = 0; i < 4; ++i) {
        given[i] = from[i] == nullptr ? V::zero() : V::load_first(from[i] + c, tiles.channels - c);
      }
      transform_gradient(given, m);
      GANFORMER_UNROLL
      for (int i = 0; i < kCells; ++i) {
        m[i].store(out + i * rows * width + c);
      }
    }
  }
}

void write_outputs(const float* m, int64_t rows, int64_t width, const Tiles& tiles, int64_t begin, int64_t end, float* y) {
  for (int64_t tile = begin; tile < end; ++tile, m += width) {
    float* to[4];
    tiles.pixels<2>(y, tile, 0, [&](int i, float* pixel) { to[i] = pixel; });
    for (int64_t c = 0; c < tiles.channels; c += kW) {
      V cells[kCells], made[4];
      GANFORMER_UNROLL
      for (int i = 0; i < kCells; ++i) {
        cells[i] = V::load(m + i * rows * width + c);
      }
      transform_output(cells, made);
      GANFORMER_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (to[i] != nullptr) {
          made[i].store_first(to[i] + c, tiles.channels - c);
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- weights

// A weight [O, 3, 3, I] transformed, as panels [16][columns / kPanel][steps][kPanel] for product(): a step is an input
// channel and a column an output channel, or the other way round with the kernel turned by 180° (`adjoint`).
class Panels {
 public:
  Panels(const float* weight, int64_t outputs, int64_t inputs, bool adjoint)
      : steps_(adjoint ? outputs : inputs),
        panels_(ceil_div(adjoint ? inputs : outputs, kPanel)),
        values_(kCells * panels_ * steps_ * kPanel) {
    float* to = values_.data();
    const int64_t blocks = adjoint ? outputs : panels_ * 2;
    parallel_for(0, blocks, std::max<int64_t>(1, kGrain / (kCells * kW * (adjoint ? 1 : kW))), [&](int64_t from, int64_t until) {
      for (int64_t block = from; block < until; ++block) {
        if (adjoint) {
          turn_row(weight, block, inputs, to);
        } else {
          turn_columns(weight, block, outputs, inputs, to);
        }
      }
    });
  }

  int64_t panels() const {
    return panels_;
  }
  int64_t steps() const {
    return steps_;
  }
  // Of a cell of the tile, kPanel columns of every step.
  const float* at(int64_t cell, int64_t panel) const {
    return values_.data() + (cell * panels_ + panel) * steps_ * kPanel;
  }

 private:
  float* place(float* values, int64_t cell, int64_t step, int64_t column) const {
    return values + ((cell * panels_ + column / kPanel) * steps_ + step) * kPanel + column % kPanel;
  }

  // A step: one output channel, its inputs as columns.
  void turn_row(const float* weight, int64_t output, int64_t inputs, float* to) const {
    const float* from = weight + output * 9 * inputs;
    for (int64_t i = 0; i < panels_ * kPanel; i += kW) {
      V g[9], u[kCells];
      GANFORMER_UNROLL
      for (int k = 0; k < 9; ++k) {
        g[8 - k] = i < inputs ? V::load_first(from + k * inputs + i, inputs - i) : V::zero();
      }
      transform_weight(g, u);
      GANFORMER_UNROLL
      for (int cell = 0; cell < kCells; ++cell) {
        u[cell].store(place(to, cell, output, i));
      }
    }
  }

  // kW columns: output channels, of which each has its inputs in a row.
  void turn_columns(const float* weight, int64_t block, int64_t outputs, int64_t inputs, float* to) const {
    const int64_t first = block * kW;
    for (int64_t i = 0; i < inputs; i += kW) {
      V cells[kCells][kW];
      for (int64_t o = 0; o < kW; ++o) {
        V g[9], u[kCells];
        GANFORMER_UNROLL
        for (int k = 0; k < 9; ++k) {
          const float* from = weight + ((first + o) * 9 + k) * inputs + i;
          g[k] = first + o < outputs ? V::load_first(from, inputs - i) : V::zero();
        }
        transform_weight(g, u);
        for (int cell = 0; cell < kCells; ++cell) {
          cells[cell][o] = u[cell];
        }
      }
      for (int cell = 0; cell < kCells; ++cell) {
        transpose(cells[cell]);
        for (int64_t k = 0; k < kW && i + k < inputs; ++k) {
          cells[cell][k].store(place(to, cell, i + k, first));
        }
      }
    }
  }

  int64_t steps_, panels_;
  Scratch values_;
};

// ---------------------------------------------------------------------------------------------- operators

void check_image(const char* name, const char* argument, const Tensor& x) {
  check_type(name, argument, x, ScalarType::Float);
  STD_TORCH_CHECK(x.dim() == 4, name, ": ", argument, " must be [B, C, H, W]");
}

Tensor channels_last(const Tensor& x) {
  Tensor out = torch::stable::empty(
      {x.size(0), x.size(1), x.size(2), x.size(3)}, ScalarType::Float, std::nullopt, x.device(), std::nullopt,
      torch::headeronly::MemoryFormat::ChannelsLast);
  return torch::stable::copy_(out, x);
}

// x itself where its bytes lie as [B][H][W][C], else a copy that does.
Tensor as_rows(const Tensor& x) {
  const auto strides = x.strides();
  const int64_t c = x.size(1), w = x.size(3), h = x.size(2);
  const bool fits = (c == 1 || strides[1] == 1) && (w == 1 || strides[3] == c) && (h == 1 || strides[2] == w * c) &&
                    (x.size(0) == 1 || strides[0] == h * w * c);
  return fits ? x : channels_last(x);
}

Tensor winograd_conv(Tensor x, Tensor weight, bool adjoint) {
  constexpr const char* name = "winograd_conv";
  check_image(name, "x", x);
  check_image(name, "weight", weight);
  STD_TORCH_CHECK(weight.size(2) == 3 && weight.size(3) == 3, name, ": weight must be [O, I, 3, 3]");
  STD_TORCH_CHECK(
      weight.size(adjoint ? 0 : 1) == x.size(1), name, ": weight must have as many ", adjoint ? "output" : "input",
      " channels as x has, ", x.size(1));
  const Tensor from = as_rows(x), kernel = as_rows(weight);
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  Tensor out = torch::stable::empty(
      {x.size(0), adjoint ? inputs : outputs, x.size(2), x.size(3)}, ScalarType::Float, std::nullopt, x.device(),
      std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  if (out.numel() == 0) {
    return out;
  }
  const Panels panels(data<float>(kernel), outputs, inputs, adjoint);
  const Tiles read(from), written(out);
  const float* source = data<float>(from);
  float* target = mutable_data<float>(out);
  // Rows in the caches: a power of two apart, they would push each other out.
  const int64_t width = round_up(read.channels, kW) + kW, out_width = panels.panels() * kPanel + kW;
  parallel_for(0, ceil_div(read.count, kTiles), 1, [&](int64_t first, int64_t last) {
    const Scratch transformed(kCells * kTiles * width), products(kCells * kTiles * out_width);
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kTiles, end = std::min(read.count, begin + kTiles);
      read_inputs(source, read, begin, end, transformed.data(), kTiles, width);
      for (int64_t cell = 0; cell < kCells; ++cell) {
        const float* a = transformed.data() + cell * kTiles * width;
        float* to = products.data() + cell * kTiles * out_width;
        for (int64_t panel = 0; panel < panels.panels(); ++panel) {
          for (int64_t row = 0; row < end - begin; row += kRows) {
            product<false>(
                a + row * width, width, 1, panels.at(cell, panel), kPanel, panels.steps(),
                to + row * out_width + panel * kPanel, out_width);
          }
        }
      }
      write_outputs(products.data(), kTiles, out_width, written, begin, end, target);
    }
  });
  return out;
}

Tensor winograd_weight_gradient(Tensor x, Tensor gradient) {
  constexpr const char* name = "winograd_weight_gradient";
  check_image(name, "x", x);
  check_image(name, "gradient", gradient);
  STD_TORCH_CHECK(
      x.size(0) == gradient.size(0) && x.size(2) == gradient.size(2) && x.size(3) == gradient.size(3), name,
      ": x and gradient must have the same batch, height and width");
  const Tensor from = as_rows(x), behind = as_rows(gradient);
  const int64_t outputs = gradient.size(1), inputs = x.size(1);
  Tensor out = torch::stable::empty(
      {outputs, inputs, 3, 3}, ScalarType::Float, std::nullopt, x.device(), std::nullopt,
      torch::headeronly::MemoryFormat::ChannelsLast);
  if (out.numel() == 0) {
    return out;
  }
  const Tiles read(from), made(behind);
  if (read.count == 0) {
    std::memset(mutable_data<float>(out), 0, static_cast<size_t>(out.numel()) * sizeof(float));
    return out;
  }
  // A row of the sums is an output channel, kRows of them at a time; its columns are input channels.
  const int64_t rows = round_up(outputs, kRows), columns = round_up(inputs, kPanel);
  const int64_t width = columns + kW, gradient_width = round_up(rows, kW) + kW;
  const int64_t fitting = kChunkBytes / (kCells * (width + gradient_width) * static_cast<int64_t>(sizeof(float)));
  const int64_t chunk = std::max<int64_t>(kTiles, std::min(read.count, fitting));
  const Scratch transformed(kCells * chunk * width), gradients(kCells * chunk * gradient_width);
  const Scratch sums(kCells * rows * columns);
  const float *source = data<float>(from), *given = data<float>(behind);
  for (int64_t begin = 0; begin < read.count; begin += chunk) {
    const int64_t count = std::min(read.count - begin, chunk);
    const int64_t grain = std::max<int64_t>(1, kGrain / (kCells * (inputs + outputs)));
    parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      read_inputs(source, read, begin + first, begin + last, transformed.data() + first * width, chunk, width);
      read_gradients(
          given, made, begin + first, begin + last, gradients.data() + first * gradient_width, chunk, gradient_width);
    });
    const int64_t strips = rows / kRows;
    const int64_t work = std::max<int64_t>(1, kGrain * 8 / (kRows * columns * count));
    parallel_for(0, kCells * strips, work, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t cell = i / strips, row = i % strips * kRows;
        const float* a = gradients.data() + cell * chunk * gradient_width + row;
        const float* b = transformed.data() + cell * chunk * width;
        float* to = sums.data() + (cell * rows + row) * columns;
        for (int64_t column = 0; column < columns; column += kPanel) {
          if (begin == 0) {
            product<false>(a, 1, gradient_width, b + column, width, count, to + column, columns);
          } else {
            product<true>(a, 1, gradient_width, b + column, width, count, to + column, columns);
          }
        }
      }
    });
  }
  float* target = mutable_data<float>(out);
  parallel_for(0, outputs, std::max<int64_t>(1, kGrain / (kCells * inputs)), [&](int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o) {
      for (int64_t i = 0; i < inputs; i += kW) {
        V u[kCells], g[9];
        GANFORMER_UNROLL
        for (int cell = 0; cell < kCells; ++cell) {
          u[cell] = V::load(sums.data() + (cell * rows + o) * columns + i);
        }
        transform_weight_gradient(u, g);
        GANFORMER_UNROLL
        for (int k = 0; k < 9; ++k) {
          g[k].store_first(target + (o * 9 + k) * inputs + i, inputs - i);
        }
      }
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  // x [B, I, H, W], weight [O, I, 3, 3] to [B, O, H, W], all float32; the result is channels-last. adjoint: the gradient
  // by the input, from x [B, O, H, W] to [B, I, H, W].
  m.def("winograd_conv(Tensor x, Tensor weight, bool adjoint) -> Tensor");
  // The gradient by the weight, [O, I, 3, 3] channels-last, from x [B, I, H, W] and the gradient by the result.
  m.def("winograd_weight_gradient(Tensor x, Tensor gradient) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("winograd_conv", GANFORMER_BOX(&winograd_conv));
  m.impl("winograd_weight_gradient", GANFORMER_BOX(&winograd_weight_gradient));
}

}  // namespace ganformer
