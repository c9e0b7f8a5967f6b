// clamp(gain * activation(x * scale + noise + bias)) and its gradients, one pass over memory each, where the channels of
// a pixel lie side by side; `styleavatar3d/ops/bias_act.py` says what it computes.
//
// Activations are straight below and above zero, so the sign of a result tells the slope. Sums go over a fixed number of
// parts of each image, whatever the number of threads: equal inputs give equal bits.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t PARTS = 16, GRAIN = 1 << 15;  // of one image; numbers that are worth a thread

struct Size {
  int64_t images, pixels, channels;
  explicit Size(const Tensor& x)
      : images(x.size(0)), pixels(x.dim() == 4 ? x.size(2) * x.size(3) : 1), channels(x.size(1)) {
    TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous(layout(x)), "float32 with channels last is needed");
  }
  static at::MemoryFormat layout(const Tensor& x) {
    return x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  }
  // of one picture too the strides say channels last, which convolutions go by
  static Tensor like(const Tensor& x) { return at::empty(x.sizes(), x.options(), layout(x)); }
  int64_t grain() const { return GRAIN * PARTS / (pixels * channels + 1) + 1; }
};

// Slopes below and above zero; results are limited to +-clamp if that is not negative.
struct Curve {
  float below, above, clamp;
  Curve(double alpha, double gain, double clamp)
      : below(gain * alpha), above(gain), clamp(clamp < 0 ? INFINITY : float(clamp)) {}
  float value(float x) const {
    const float y = x * (x > 0 ? above : below);
    return y > clamp ? clamp : y < -clamp ? -clamp : y;  // not-a-number passes
  }
  float slope(float y) const { return std::abs(y) < clamp ? (y > 0 ? above : below) : 0; }
};

Tensor filled(const MaybeTensor& given, float otherwise, int64_t count, const Tensor& like) {
  return given ? given->contiguous() : at::full({count}, otherwise, like.options());
}

Tensor bias_act(const Tensor& x, const MaybeTensor& bias, const MaybeTensor& scale, const MaybeTensor& noise,
                double alpha, double gain, double clamp) {
  const Size size(x);
  const Curve curve(alpha, gain, clamp);
  const Tensor biases = filled(bias, 0, size.channels, x);
  const Tensor scales = filled(scale, 1, size.channels, x);
  const Tensor noises = filled(noise, 0, 1, x);
  Tensor result = size.like(x);
  const float *in = x.const_data_ptr<float>(), *b = biases.const_data_ptr<float>();
  const float *s = scales.const_data_ptr<float>(), *n = noises.const_data_ptr<float>();
  float* out = result.mutable_data_ptr<float>();
  const int64_t own_scale = scale ? size.channels : 0, noise_count = noises.numel();
  at::parallel_for(0, size.images * size.pixels, GRAIN / size.channels + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float *from = in + row * size.channels, *factor = s + row / size.pixels * own_scale;
      const float added = n[row % noise_count];
      float* to = out + row * size.channels;
#pragma GCC ivdep
      for (int64_t c = 0; c < size.channels; c++) to[c] = curve.value(from[c] * factor[c] + (added + b[c]));
    }
  });
  return result;
}

// Gradients of x, scale [image, channel], noise [image, 1, row, column] and bias [channel]; empty if not wanted.
std::tuple<Tensor, Tensor, Tensor, Tensor> bias_act_backward(const Tensor& gradient, const MaybeTensor& result,
                                                             const MaybeTensor& x, const MaybeTensor& scale,
                                                             bool wants_noise, bool wants_bias, double alpha,
                                                             double gain, double clamp) {
  const Size size(gradient);
  const Curve curve(alpha, gain, clamp);
  const Tensor scales = filled(scale, 1, size.channels, gradient);
  Tensor to_x = size.like(gradient);
  Tensor to_noise = at::empty({wants_noise ? size.images : 0, 1, gradient.size(-2), gradient.size(-1)},
                             gradient.options());
  Tensor sums = at::zeros({2, size.images, PARTS, size.channels}, gradient.options());
  const float *g = gradient.const_data_ptr<float>(), *s = scales.const_data_ptr<float>();
  const float* y = result ? result->const_data_ptr<float>() : nullptr;
  const float* in = x ? x->const_data_ptr<float>() : nullptr;
  float *dx = to_x.mutable_data_ptr<float>(), *dn = wants_noise ? to_noise.mutable_data_ptr<float>() : nullptr;
  float *of_bias = sums.mutable_data_ptr<float>(), *of_scale = of_bias + sums.numel() / 2;
  const int64_t channels = size.channels, own_scale = scale ? channels : 0;
  at::parallel_for(0, size.images * PARTS, size.grain(), [&](int64_t begin, int64_t end) {
    std::vector<float> upstream(channels);
    float* u = upstream.data();
    for (int64_t part = begin; part < end; part++) {
      const int64_t image = part / PARTS, index = part % PARTS;
      const float* factor = s + image * own_scale;
      float *bias_sum = of_bias + part * channels, *scale_sum = of_scale + part * channels;
      for (int64_t p = size.pixels * index / PARTS; p < size.pixels * (index + 1) / PARTS; p++) {
        const int64_t row = image * size.pixels + p, at = row * channels;
        if (y) {
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; c++) u[c] = g[at + c] * curve.slope(y[at + c]);
        } else {
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; c++) u[c] = g[at + c] * curve.above;
        }
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; c++) dx[at + c] = u[c] * factor[c];
        if (wants_bias)
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; c++) bias_sum[c] += u[c];
        if (in)
#pragma GCC ivdep
          for (int64_t c = 0; c < channels; c++) scale_sum[c] += u[c] * in[at + c];
        if (dn) {
          float total = 0;
#pragma omp simd reduction(+ : total)
          for (int64_t c = 0; c < channels; c++) total += u[c];
          dn[row] = total;
        }
      }
    }
  });
  const auto wanted = [&](bool wants, const Tensor& sum) { return wants ? sum : at::empty({0}, gradient.options()); };
  return {to_x, wanted(in, sums[1].sum(1)), to_noise, wanted(wants_bias, sums[0].sum({0, 1}))};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(styleavatar3d_cpu, library) {
  library.def(
      "bias_act(Tensor x, Tensor? bias, Tensor? scale, Tensor? noise, float alpha, float gain, float clamp) -> Tensor",
      bias_act);
  library.def(
      "bias_act_backward(Tensor gradient, Tensor? result, Tensor? x, Tensor? scale, bool wants_noise, "
      "bool wants_bias, float alpha, float gain, float clamp) -> (Tensor, Tensor, Tensor, Tensor)",
      bias_act_backward);
}
