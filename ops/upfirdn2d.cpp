// Up-sampling by inserted zeros, padding or cropping, FIR filter, down-sampling, in one pass over the image.
//
// Polyphase: at an output coordinate only those taps are used that meet a sample, so the zeros are neither stored nor
// multiplied. One row of outputs is made at a time, in tiles that stay in the cache: first the rows of the input are
// summed with the vertical taps, then the columns of that sum with the horizontal ones. An input row comes from memory
// once, while the output row before is made, and from the cache for the others that need it.
//
// The operator is its own gradient with up and down, and the ends of the filter, swapped.

#include "common.h"

namespace ganformer {
namespace {

// Numbers of the vertical sum in a tile: 16 KB of floats, half of a first-level cache.
constexpr int64_t kTile = 4096;

// Numbers of the result that are made at once, and then written past the caches if it is large.
constexpr int64_t kPiece = 1024;

// Sizes beyond these are mistakes, and could overflow the arithmetic on indices.
constexpr int64_t kLargestFactor = 1 << 16;
constexpr int64_t kLargestSize = int64_t(1) << 31;

// One axis: which samples and which taps meet at an output coordinate.
struct Axis {
  int64_t in, out, up, down;
  int64_t most;                // taps of the phase that has most
  std::vector<int64_t> first;  // [out] the sample under the first tap of the phase; may lie outside the input
  std::vector<int64_t> phase;  // [out] the taps phase, phase + up, phase + 2 up, … meet samples
  std::vector<int64_t> count;  // [up] number of taps in a phase

  // before: zeros before the input (negative: samples that are cropped).
  Axis(int64_t in, int64_t out, int64_t up, int64_t down, int64_t before, int64_t taps)
      : in(in), out(out), up(up), down(down), most(ceil_div(taps, up)), first(out), phase(out), count(up) {
    for (int64_t o = 0; o < out; ++o) {
      const int64_t start = o * down - before;  // up-sampled coordinate under tap 0
      phase[o] = ((-start) % up + up) % up;
      first[o] = (start + phase[o]) / up;
    }
    for (int64_t p = 0; p < up; ++p) {
      count[p] = p < taps ? ceil_div(taps - p, up) : 0;
    }
  }

  // Outputs this far apart have the same phase.
  int64_t period() const {
    int64_t a = up, b = down;
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    return up / a;
  }
};

// Taps of one line of the filter sorted by phase: [up][most], unused places are zero.
template <class A>
std::vector<A> by_phase(const std::vector<double>& taps, const Axis& axis, double gain) {
  std::vector<A> sorted(axis.up * axis.most);
  for (size_t t = 0; t < taps.size(); ++t) {
    sorted[t % axis.up * axis.most + t / axis.up] = static_cast<A>(taps[t] * gain);
  }
  return sorted;
}

// The filter in the order of a correlation.
struct Filter {
  int64_t height = 0, width = 0;
  bool separable = false;
  std::vector<double> values;  // [width] if separable, the same on both axes; else [height][width]

  std::vector<double> line(int64_t row) const {
    return std::vector<double>(values.begin() + row * width, values.begin() + (row + 1) * width);
  }
};

// ---------------------------------------------------------------------------------------------- sums of rows

// to[i] = Σ taps[k] · rows[k][start + i], or added to what is there.
template <class T, int kTaps, bool kAdd>
void sum_rows_of(const T* const* rows, const Math<T>* taps, int64_t start, int64_t length, Math<T>* __restrict to) {
  using A = Math<T>;
  const T* row[kTaps];
  A tap[kTaps];
  for (int k = 0; k < kTaps; ++k) {
    row[k] = rows[k] + start;
    tap[k] = taps[k];
  }
  for (int64_t i = 0; i < length; ++i) {
    A sum = tap[0] * load(row[0][i]);
    for (int k = 1; k < kTaps; ++k) {
      sum += tap[k] * load(row[k][i]);
    }
    to[i] = kAdd ? to[i] + sum : sum;
  }
}

template <class T>
void sum_rows(
    const T* const* rows, const Math<T>* taps, size_t count, int64_t start, int64_t length, Math<T>* to) {
  switch (count) {
    case 0:
      return std::fill(to, to + length, Math<T>(0));
    case 1:
      return sum_rows_of<T, 1, false>(rows, taps, start, length, to);
    case 2:
      return sum_rows_of<T, 2, false>(rows, taps, start, length, to);
    case 3:
      return sum_rows_of<T, 3, false>(rows, taps, start, length, to);
    default:
      sum_rows_of<T, 4, false>(rows, taps, start, length, to);
  }
  for (size_t k = 4; k < count; ++k) {
    sum_rows_of<T, 1, true>(rows + k, taps + k, start, length, to);
  }
}

// ---------------------------------------------------------------------------------------------- sums of columns

// to[i] = Σ taps[k] · from[k · step + i]: neighbours in a row are `step` numbers apart.
template <class T, int kTaps>
void slide(const Math<T>* __restrict from, const Math<T>* taps, int64_t step, int64_t length, T* __restrict to) {
  using A = Math<T>;
  A tap[kTaps];
  for (int k = 0; k < kTaps; ++k) {
    tap[k] = taps[k];
  }
  for (int64_t i = 0; i < length; ++i) {
    A sum = tap[0] * from[i];
    for (int k = 1; k < kTaps; ++k) {
      sum += tap[k] * from[k * step + i];
    }
    store(to[i], sum);
  }
}

// Two phases with `kTaps` taps each, that take turns: ×2 up-sampling of single numbers.
template <class T, int kTaps>
void interleave(
    const Math<T>* __restrict even, const Math<T>* __restrict odd, const Math<T>* even_taps, const Math<T>* odd_taps,
    int64_t pairs, T* __restrict to) {
  using A = Math<T>;
  A tap[2][kTaps];
  for (int k = 0; k < kTaps; ++k) {
    tap[0][k] = even_taps[k];
    tap[1][k] = odd_taps[k];
  }
  for (int64_t i = 0; i < pairs; ++i) {
    A first = tap[0][0] * even[i], second = tap[1][0] * odd[i];
    for (int k = 1; k < kTaps; ++k) {
      first += tap[0][k] * even[i + k];
      second += tap[1][k] * odd[i + k];
    }
    store(to[2 * i], first);
    store(to[2 * i + 1], second);
  }
}

// Every second place of a sliding sum: ×2 down-sampling of single numbers.
template <class T, int kTaps>
void decimate(const Math<T>* __restrict from, const Math<T>* taps, int64_t length, T* __restrict to) {
  using A = Math<T>;
  A tap[kTaps];
  for (int k = 0; k < kTaps; ++k) {
    tap[k] = taps[k];
  }
  for (int64_t i = 0; i < length; ++i) {
    A sum = tap[0] * from[2 * i];
    for (int k = 1; k < kTaps; ++k) {
      sum += tap[k] * from[2 * i + k];
    }
    store(to[i], sum);
  }
}

// Any sizes: added to sums[end - begin][channels]. `from` begins with sample `origin`.
template <class A>
void add_columns(
    const A* from, int64_t origin, const A* taps, const Axis& axis, int64_t begin, int64_t end, int64_t channels,
    A* __restrict sums) {
  for (int64_t o = begin; o < end; ++o) {
    const A* tap = taps + axis.phase[o] * axis.most;
    const A* __restrict column = from + (axis.first[o] - origin) * channels;
    A* __restrict sum = sums + (o - begin) * channels;
    for (int64_t k = 0; k < axis.count[axis.phase[o]]; ++k) {
      const A w = tap[k];
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += w * column[k * channels + c];
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- the image

template <class T>
class Resampler {
 public:
  using A = Math<T>;
  static constexpr int64_t kLine = 64 / sizeof(T);  // numbers of a cache line

  // channels: numbers that lie together at a position; 1 in the contiguous layout, whose planes are images then.
  Resampler(const Filter& filter, const Axis& y, const Axis& x, int64_t channels, double gain, bool streams)
      : y_(y), x_(x), channels_(channels), separable_(filter.separable), streams_(streams) {
    if (separable_) {
      vertical_ = by_phase<A>(filter.values, y, gain);
      lines_.push_back(by_phase<A>(filter.values, x, 1));
    } else {
      for (int64_t row = 0; row < filter.height; ++row) {
        lines_.push_back(by_phase<A>(filter.line(row), x, gain));
      }
    }
    const int64_t period = x.period();
    const int64_t columns = std::max<int64_t>(16, kTile / channels);
    tile_ = std::max<int64_t>(1, columns * x.up / x.down / period) * period;
    piece_ = std::max<int64_t>(1, kPiece / channels / period) * period;
    ahead_a_piece_ = ceil_div(piece_ * x.down * channels, x.up * kLine);
    width_ = tile_ * x.down / x.up + x.most + 2;
  }

  struct Scratch {
    Aligned<A> row, sums;
    Aligned<T> piece;
    // Of the row in hand: the rows of the input that it needs, and the tap (or the line of the filter) that meets each.
    std::vector<const T*> rows;
    std::vector<A> taps;
    std::vector<int64_t> lines;
  };

  // One row of the result from the image that begins at `image`.
  void row(const T* image, int64_t o, T* to, Scratch& scratch) const {
    scratch.row.resize(width_ * channels_);
    scratch.sums.resize(std::min(tile_, x_.out) * channels_);
    if (streams_) {
      scratch.piece.resize(piece_ * channels_);
    }
    scratch.rows.clear();
    scratch.taps.clear();
    scratch.lines.clear();
    const int64_t phase = y_.phase[o];
    for (int64_t k = 0; k < y_.count[phase]; ++k) {
      const int64_t i = y_.first[o] + k;
      if (i >= 0 && i < y_.in) {
        scratch.rows.push_back(image + i * x_.in * channels_);
        scratch.taps.push_back(separable_ ? vertical_[phase * y_.most + k] : A(1));
        scratch.lines.push_back(separable_ ? 0 : phase + k * y_.up);
      }
    }
    // The row that the next output row needs besides these: asked for bit by bit, while there is work to do meanwhile.
    const int64_t next = y_.first[o] + y_.count[phase];
    const bool is_next = next >= 0 && next < y_.in;
    const auto in_next = [&](int64_t o) {
      return is_next ? image + (next * x_.in + std::clamp<int64_t>(x_.first[o], 0, x_.in)) * channels_ : image;
    };
    for (int64_t begin = 0; begin < x_.out; begin += tile_) {
      const int64_t end = std::min(begin + tile_, x_.out);
      if (!separable_) {
        all_taps(scratch, begin, end, to + begin * channels_);
        continue;
      }
      sum_of_rows(scratch, 0, scratch.rows.size(), begin, end);
      const T *ahead = in_next(begin), *ahead_end = in_next(end - 1);
      for (int64_t piece = begin; piece < end; piece += piece_) {
        const int64_t stop = std::min(piece + piece_, end);
        for (int64_t i = 0; i < ahead_a_piece_ && ahead < ahead_end; ++i, ahead += kLine) {
          prefetch(ahead);
        }
        T* there = to + piece * channels_;
        columns(scratch, begin, piece, stop, streams_ ? scratch.piece.data() : there);
        if (streams_) {
          stream(scratch.piece.data(), (stop - piece) * channels_, there);
        }
      }
    }
  }

 private:
  const Axis& y_;
  const Axis& x_;
  int64_t channels_;
  bool separable_, streams_;
  std::vector<A> vertical_;
  std::vector<std::vector<A>> lines_;
  int64_t tile_, width_;  // outputs of a tile, and samples that they need at most
  int64_t piece_;         // outputs that are made at once
  int64_t ahead_a_piece_; // cache lines of the input to ask for meanwhile

  // The samples that outputs [begin, end) need, rows k to k + count summed, into scratch.row; zeros outside the image.
  void sum_of_rows(Scratch& scratch, size_t k, size_t count, int64_t begin, int64_t end) const {
    const int64_t from = x_.first[begin];
    const int64_t to = x_.first[end - 1] + x_.most;
    const int64_t left = std::clamp<int64_t>(0, from, to);
    const int64_t right = std::clamp<int64_t>(x_.in, left, to);
    A* row = scratch.row.data();
    std::fill(row, row + (left - from) * channels_, A(0));
    std::fill(row + (right - from) * channels_, row + (to - from) * channels_, A(0));
    if (right > left) {
      sum_rows<T>(
          scratch.rows.data() + k, scratch.taps.data() + k, count, left * channels_, (right - left) * channels_,
          row + (left - from) * channels_);
    }
  }

  // Outputs [begin, end) from scratch.row, which begins with the first sample of output `tile`.
  void columns(Scratch& scratch, int64_t tile, int64_t begin, int64_t end, T* to) const {
    const int64_t origin = x_.first[tile], most = x_.most, length = end - begin;
    const A* taps = lines_[0].data();
    const auto samples = [&](int64_t o) { return scratch.row.data() + (x_.first[o] - origin) * channels_; };
    if (most <= 4 && x_.up == 1 && x_.down == 1) {
      return slide_any(samples(begin), taps, channels_, most, length * channels_, to);
    }
    if (most <= 4 && channels_ > 1) {
      for (int64_t o = begin; o < end; ++o) {
        const int64_t phase = x_.phase[o];
        slide_any(
            samples(o), taps + phase * most, channels_, x_.count[phase], channels_, to + (o - begin) * channels_);
      }
      return;
    }
    if (x_.up == 1 && x_.down == 2 && (most == 2 || most == 4)) {
      return most == 2 ? decimate<T, 2>(samples(begin), taps, length, to)
                       : decimate<T, 4>(samples(begin), taps, length, to);
    }
    if (x_.up == 2 && x_.down == 1 && x_.count[0] == x_.count[1] && most <= 2) {
      if (length >= 2) {
        const A* even = taps + x_.phase[begin] * most;
        const A* odd = taps + x_.phase[begin + 1] * most;
        most == 1 ? interleave<T, 1>(samples(begin), samples(begin + 1), even, odd, length / 2, to)
                  : interleave<T, 2>(samples(begin), samples(begin + 1), even, odd, length / 2, to);
      }
      if (length % 2 != 0) {
        slide_any(samples(end - 1), taps + x_.phase[end - 1] * most, 1, most, 1, to + length - 1);
      }
      return;
    }
    A* sums = scratch.sums.data();
    std::fill(sums, sums + length * channels_, A(0));
    add_columns(scratch.row.data(), origin, taps, x_, begin, end, channels_, sums);
    write(sums, length * channels_, to);
  }

  // Outputs [begin, end) of a filter that is no product: its lines one after the other.
  void all_taps(Scratch& scratch, int64_t begin, int64_t end, T* to) const {
    A* sums = scratch.sums.data();
    std::fill(sums, sums + (end - begin) * channels_, A(0));
    for (size_t k = 0; k < scratch.rows.size(); ++k) {
      sum_of_rows(scratch, k, 1, begin, end);
      const A* taps = lines_[scratch.lines[k]].data();
      add_columns(scratch.row.data(), x_.first[begin], taps, x_, begin, end, channels_, sums);
    }
    write(sums, (end - begin) * channels_, to);
  }

  static void slide_any(const A* from, const A* taps, int64_t step, int64_t count, int64_t length, T* to) {
    switch (count) {
      case 0:
        for (int64_t i = 0; i < length; ++i) {
          store(to[i], A(0));
        }
        return;
      case 1:
        return slide<T, 1>(from, taps, step, length, to);
      case 2:
        return slide<T, 2>(from, taps, step, length, to);
      case 3:
        return slide<T, 3>(from, taps, step, length, to);
      default:
        return slide<T, 4>(from, taps, step, length, to);
    }
  }

  static void write(const A* __restrict sums, int64_t length, T* __restrict to) {
    for (int64_t i = 0; i < length; ++i) {
      store(to[i], sums[i]);
    }
  }
};

// The filter as doubles, in the order of a correlation: a convolution unless `flip` undoes it.
Filter read_filter(const char* name, const Tensor& taps, bool flip) {
  check_element_type(name, "taps", taps);
  STD_TORCH_CHECK(taps.dim() == 1 || taps.dim() == 2, name, ": taps must be [k] or [kh, kw]");
  STD_TORCH_CHECK(taps.numel() > 0, name, ": taps must not be empty");
  Filter filter;
  filter.separable = taps.dim() == 1;
  filter.width = taps.size(taps.dim() - 1);
  filter.height = taps.size(0);
  const Tensor line = torch::stable::contiguous(taps);
  dispatch(line, [&](auto type) {
    const auto* values = data<decltype(type)>(line);
    for (int64_t i = 0; i < line.numel(); ++i) {
      filter.values.push_back(load(values[i]));
    }
  });
  if (!flip) {
    std::reverse(filter.values.begin(), filter.values.end());
  }
  return filter;
}

Tensor upfirdn2d(
    Tensor x, Tensor taps, int64_t up, int64_t down, int64_t before_y, int64_t before_x, int64_t height, int64_t width,
    bool flip, double gain) {
  constexpr const char* name = "upfirdn2d";
  check_element_type(name, "x", x);
  STD_TORCH_CHECK(x.dim() == 4, name, ": x must be [B, C, H, W]");
  STD_TORCH_CHECK(up >= 1 && up <= kLargestFactor, name, ": up must be 1 or more, and is ", up);
  STD_TORCH_CHECK(down >= 1 && down <= kLargestFactor, name, ": down must be 1 or more, and is ", down);
  const auto far = [](int64_t before) { return before <= -kLargestSize || before >= kLargestSize; };
  STD_TORCH_CHECK(!far(before_y) && !far(before_x), name, ": before_y or before_x is out of range");
  STD_TORCH_CHECK(
      height >= 0 && width >= 0 && height < kLargestSize && width < kLargestSize, name,
      ": height and width must be 0 or more, and below 2^31");
  const Filter filter = read_filter(name, taps, flip);
  const Tensor from = dense(x);
  const bool last = layout_of(from) == Layout::channels_last;
  const int64_t batch = x.size(0), channels = x.size(1);
  Tensor out = torch::stable::empty(
      {batch, channels, height, width}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
      last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous);
  if (out.numel() == 0) {
    return out;
  }
  const Axis y(x.size(2), height, up, down, before_y, filter.height);
  const Axis across(x.size(3), width, up, down, before_x, filter.width);
  const int64_t together = last ? channels : 1;
  const int64_t images = last ? batch : batch * channels;
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    // It makes channels-last a quarter faster, and contiguous rows, which are written in one go already, slower.
    const bool streamed = last && streams(out.numel() * static_cast<int64_t>(sizeof(T)));
    const Resampler<T> resampler(filter, y, across, together, gain, streamed);
    const T* source = data<T>(from);
    T* target = mutable_data<T>(out);
    const int64_t image_size = y.in * across.in * together, row_size = width * together;
    const int64_t grain = std::max<int64_t>(1, kGrain / row_size);
    parallel_for(0, images * height, grain, [&](int64_t begin, int64_t end) {
      typename Resampler<T>::Scratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        resampler.row(source + i / height * image_size, i % height, target + i * row_size, scratch);
      }
      if (streamed) {
        end_stream();
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ganformer, m) {
  // x [B, C, H, W] to [B, C, height, width]. taps [k], the same on both axes, or [kh, kw], floating. before_y zeros
  // above and before_x to the left (negative: cropped), below and to the right as many as the size asks for.
  // flip: correlation in place of convolution.
  m.def(
      "upfirdn2d(Tensor x, Tensor taps, int up, int down, int before_y, int before_x, int height, int width, bool flip,"
      " float gain) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ganformer, CPU, m) {
  m.impl("upfirdn2d", GANFORMER_BOX(&upfirdn2d));
}

}  // namespace ganformer
