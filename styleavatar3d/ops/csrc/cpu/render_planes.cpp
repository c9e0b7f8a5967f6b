// Volume rendering of planes on a CPU; `styleavatar3d/ops/render_planes.py` says what it computes.
//
// Rays go in packets of LANES, one ray a lane, so that importance sampling and compositing need no branches either.
// A packet's samples stay in cache from lookup to pixel. Backward recomputes them from the saved depths; threads own
// the images (or copies of an image's gradient) that they write to, so there are no atomics.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "field.h"
#include "rays.h"

namespace {

using at::Tensor;

constexpr int64_t MAX_COPIES = 8;  // of one image's plane gradient

// ---------------------------------------------------------------------------------------------------------- forward

struct Samples {
  std::vector<Lanes> depth, features, hidden, outputs, sorted_depth, sorted_raw, cdf;
  std::vector<IntLanes> rank;
  Light light;

  Samples(const FieldShape& shape, int count)
      : depth(count), features(shape.planes.channels), hidden(shape.hidden), outputs(count * shape.outputs),
        sorted_depth(count), sorted_raw(count), rank(count) {}
};

struct Renderer {
  FieldShape shape;
  DecoderWeights weights;
  const float* texels;
  Rays rays;
  float gain;
};

struct Pixels {
  float *features, *mask, *depth, *sample_depths;
};

void evaluate(const Renderer& renderer, const Packet& packet, int first, int last, Samples& samples) {
  const FieldShape& shape = renderer.shape;
  for (int i = first; i < last; i++) {
    Lanes point[3];
    packet.point(samples.depth[i], point);
    look_up(shape, renderer.texels + packet.image * shape.planes.size(), point, samples.features.data());
    decode(shape, renderer.weights, samples.features.data(), samples.hidden.data(), &samples.outputs[i * shape.outputs]);
  }
}

// Fills depth and outputs of all samples (coarse, then fine) and their sorted order.
void sample_packet(const Renderer& renderer, const Packet& packet, const Jitter& coarse, const Jitter& fine,
                   Samples& samples) {
  const int coarse_count = coarse.samples, count = coarse.samples + fine.samples, outputs = renderer.shape.outputs;
  const Lanes length = larger(packet.far - packet.near, Lanes{});
  for (int i = 0; i < coarse_count; i++)
    samples.depth[i] = packet.near + length * ((coarse.at(packet, i) + float(i)) * (1.0f / coarse_count));
  evaluate(renderer, packet, 0, coarse_count, samples);
  for (int i = 0; i < coarse_count; i++) samples.sorted_raw[i] = samples.outputs[i * outputs];
  if (fine.samples) {
    samples.light.trace(coarse_count, samples.depth.data(), samples.sorted_raw.data(), renderer.gain);
    importance_depths(packet, coarse_count, samples.depth.data(), samples.light, fine, samples.cdf,
                      &samples.depth[coarse_count]);
    evaluate(renderer, packet, coarse_count, count, samples);
  }
  rank_samples(coarse_count, fine.samples, samples.depth.data(), samples.rank.data());
  for (int i = 0; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) {
      const int place = samples.rank[i][lane];
      samples.sorted_depth[place][lane] = samples.depth[i][lane];
      samples.sorted_raw[place][lane] = samples.outputs[i * outputs][lane];
    }
}

void composite_packet(const Renderer& renderer, const Packet& packet, int count, Samples& samples, Pixels pixels) {
  const FieldShape& shape = renderer.shape;
  const int features = shape.outputs - 1;
  Light& light = samples.light;
  light.trace(count, samples.sorted_depth.data(), samples.sorted_raw.data(), renderer.gain);
  Lanes depth = {}, total[MAX_FEATURES] = {};
  for (int i = 0; i + 1 < count; i++)
    depth += light.weight[i] * (samples.sorted_depth[i] + samples.sorted_depth[i + 1]) * 0.5f;
  for (int i = 0; i < count; i++) samples.sorted_raw[i] = light.of_sample(i);
  for (int i = 0; i < count; i++) {
    Lanes weight;
    for (int lane = 0; lane < LANES; lane++) weight[lane] = samples.sorted_raw[samples.rank[i][lane]][lane];
    for (int k = 0; k < features; k++) total[k] += weight * color(shape, samples.outputs[i * shape.outputs + 1 + k]);
  }
  const Lanes behind = light.before[count - 1];
  for (int lane = 0; lane < packet.count; lane++) {
    const int64_t ray = packet.image * renderer.rays.rays + packet.first_ray + lane;
    pixels.mask[ray] = 1.0f - behind[lane];
    pixels.depth[ray] = depth[lane] + behind[lane] * packet.far[lane];
    for (int k = 0; k < features; k++) pixels.features[ray * features + k] = total[k][lane];
    for (int i = 0; i < count; i++) pixels.sample_depths[ray * count + i] = samples.sorted_depth[i][lane];
  }
}

void miss_packet(const Renderer& renderer, const Packet& packet, int count, Pixels pixels) {
  const int features = renderer.shape.outputs - 1;
  for (int lane = 0; lane < packet.count; lane++) {
    const int64_t ray = packet.image * renderer.rays.rays + packet.first_ray + lane;
    pixels.mask[ray] = 0;
    pixels.depth[ray] = packet.far[lane];
    std::fill_n(pixels.features + ray * features, features, 0.0f);
    std::fill_n(pixels.sample_depths + ray * count, count, packet.near[lane]);
  }
}

// --------------------------------------------------------------------------------------------------------- backward

struct PixelGradients {
  const float *features, *mask, *depth, *sample_depths;
};

struct WeightGradients {  // laid out in this order in one row of numbers
  Lanes *hidden_weight, *hidden_bias, *output_weight, *output_bias;

  WeightGradients(const FieldShape& shape, Lanes* row)
      : hidden_weight(row), hidden_bias(row + shape.planes.channels * shape.hidden),
        output_weight(hidden_bias + shape.hidden), output_bias(output_weight + shape.hidden * shape.outputs) {}
};

struct Transposed {
  std::vector<float> hidden_weight, output_weight;

  Transposed(const FieldShape& shape, const DecoderWeights& w)
      : hidden_weight(transpose(w.hidden_weight, shape.planes.channels, shape.hidden)),
        output_weight(transpose(w.output_weight, shape.hidden, shape.outputs)) {}

  static std::vector<float> transpose(const float* matrix, int rows, int columns) {
    std::vector<float> result(rows * columns);
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < columns; j++) result[j * rows + i] = matrix[i * columns + j];
    return result;
  }
};

struct BackwardSamples {
  std::vector<Lanes> depth, raw, features, hidden, outputs, hidden_gradient, output_gradient, pixel_gradient, share;
  Light light;

  BackwardSamples(const FieldShape& shape, int count)
      : depth(count), raw(count), features(count * shape.planes.channels), hidden(count * shape.hidden),
        outputs(count * shape.outputs), hidden_gradient(count * shape.hidden), output_gradient(count * shape.outputs),
        pixel_gradient(shape.outputs - 1), share(count) {}
};

void recompute(const Renderer& renderer, const Packet& packet, int count, const float* sample_depths,
               BackwardSamples& samples) {
  const FieldShape& shape = renderer.shape;
  for (int i = 0; i < count; i++) {
    for (int lane = 0; lane < LANES; lane++)
      samples.depth[i][lane] = sample_depths[(packet.image * renderer.rays.rays + packet.ray(lane)) * count + i];
    Lanes point[3], *features = &samples.features[i * shape.planes.channels];
    Lanes* outputs = &samples.outputs[i * shape.outputs];
    packet.point(samples.depth[i], point);
    look_up(shape, renderer.texels + packet.image * shape.planes.size(), point, features);
    decode(shape, renderer.weights, features, &samples.hidden[i * shape.hidden], outputs);
    samples.raw[i] = outputs[0];
  }
  samples.light.trace(count, samples.depth.data(), samples.raw.data(), renderer.gain);
}

// Pixel gradients -> gradients of the decoder's limited outputs. With weight w_i = T_i - T_(i+1), T falling by
// exp(-optical depth), the slope for interval i's optical depth is T_(i+1) dw_i - sum_(j > i) w_j dw_j.
void composite_backward(const Renderer& renderer, const Packet& packet, int count, PixelGradients gradients,
                        BackwardSamples& samples) {
  const FieldShape& shape = renderer.shape;
  const int features = shape.outputs - 1;
  Lanes mask = {}, depth = {};
  std::fill(samples.pixel_gradient.begin(), samples.pixel_gradient.end(), Lanes{});
  for (int lane = 0; lane < packet.count; lane++) {
    const int64_t ray = packet.image * renderer.rays.rays + packet.first_ray + lane;
    mask[lane] = gradients.mask[ray];
    depth[lane] = gradients.depth[ray];
    for (int k = 0; k < features; k++) samples.pixel_gradient[k][lane] = gradients.features[ray * features + k];
  }
  for (int i = 0; i < count; i++) {
    const Lanes *output = &samples.outputs[i * shape.outputs + 1], weight = samples.light.of_sample(i);
    Lanes *gradient = &samples.output_gradient[i * shape.outputs], share = {};
    for (int k = 0; k < features; k++) {
      const Lanes shown = color(shape, output[k]);
      share += samples.pixel_gradient[k] * shown;
      gradient[1 + k] = samples.pixel_gradient[k] * weight * color_slope(shape, shown) * within_limit(output[k]);
    }
    samples.share[i] = share;
    gradient[0] = Lanes{};
  }
  Lanes behind = {};
  for (int i = count - 2; i >= 0; i--) {
    const Lanes middle = (samples.depth[i] + samples.depth[i + 1]) * 0.5f;
    const Lanes of_weight = (samples.share[i] + samples.share[i + 1]) * 0.5f + mask + depth * (middle - packet.far);
    const Lanes of_optical_depth = samples.light.before[i + 1] * of_weight - behind;
    behind += samples.light.weight[i] * of_weight;
    const Lanes slope = sigmoid((samples.raw[i] + samples.raw[i + 1]) * 0.5f - 1.0f);
    const Lanes half = of_optical_depth * slope * (samples.depth[i + 1] - samples.depth[i]) * (0.5f * renderer.gain);
    samples.output_gradient[i * shape.outputs] += half;
    samples.output_gradient[(i + 1) * shape.outputs] += half;
  }
  for (int i = 0; i < count; i++) samples.output_gradient[i * shape.outputs] *= within_limit(samples.raw[i]);
}

void decode_backward(const FieldShape& shape, const Transposed& transposed, int count, BackwardSamples& samples,
                     WeightGradients total) {
  const int channels = shape.planes.channels, hidden = shape.hidden, outputs = shape.outputs;
  for (int i = 0; i < count; i++) {
    Lanes* gradient = &samples.hidden_gradient[i * hidden];
    affine(&samples.output_gradient[i * outputs], outputs, transposed.output_weight.data(), nullptr, gradient, hidden);
    for (int j = 0; j < hidden; j++) gradient[j] *= hidden_slope(shape, samples.hidden[i * hidden + j]);
  }
  const Lanes *hidden_gradient = samples.hidden_gradient.data(), *output_gradient = samples.output_gradient.data();
  add_outer(count, samples.features.data(), channels, hidden_gradient, hidden, total.hidden_weight);
  add_outer(count, samples.hidden.data(), hidden, output_gradient, outputs, total.output_weight);
  add_columns(count, hidden_gradient, hidden, total.hidden_bias);
  add_columns(count, output_gradient, outputs, total.output_bias);
}

void planes_backward(const Renderer& renderer, const Packet& packet, const Transposed& transposed, int count,
                     BackwardSamples& samples, float* plane_gradient) {
  const FieldShape& shape = renderer.shape;
  Lanes gradient[MAX_CHANNELS], point[3];
  for (int i = 0; i < count; i++) {
    affine(&samples.hidden_gradient[i * shape.hidden], shape.hidden, transposed.hidden_weight.data(), nullptr, gradient,
           shape.planes.channels);
    packet.point(samples.depth[i], point);
    spread(shape, gradient, point, plane_gradient);
  }
}

// ----------------------------------------------------------------------------------------------------------- tensors

FieldShape field_shape(const Tensor& planes, const Tensor& output_weight, double box, at::IntArrayRef depths,
                       bool leaky, bool sigmoid) {
  FieldShape shape;
  shape.planes = {int(planes.size(1)), int(planes.size(2)), int(planes.size(3)), int(planes.size(4)),
                  {int(depths[0]), int(depths[1]), int(depths[2])}, float(2 / box)};
  shape.hidden = output_weight.size(0);
  shape.outputs = output_weight.size(1);
  shape.leaky = leaky;
  shape.sigmoid = sigmoid;
  TORCH_CHECK(shape.planes.channels % 8 == 0 && shape.planes.channels <= MAX_CHANNELS, "channels: 8, 16, 24 or 32");
  TORCH_CHECK(shape.hidden % 4 == 0, "hidden: a multiple of 4");
  TORCH_CHECK(shape.outputs <= MAX_FEATURES + 1, "at most ", MAX_FEATURES, " features");
  TORCH_CHECK(shape.planes.size() < (int64_t(1) << 31), "planes of one image: fewer than 2^31 numbers");
  return shape;
}

const float* data(const Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat, "contiguous float32 tensors are needed");
  return tensor.const_data_ptr<float>();
}

Renderer make_renderer(const Tensor& planes, at::TensorList decoder, at::TensorList rays, double box,
                       at::IntArrayRef depths, double gain, bool leaky, bool sigmoid) {
  return {field_shape(planes, decoder[2], box, depths, leaky, sigmoid),
          {data(decoder[0]), data(decoder[1]), data(decoder[2]), data(decoder[3])},
          data(planes),
          {data(rays[0]), data(rays[1]), data(rays[2]), data(rays[3]), rays[0].size(0), rays[0].size(1)},
          float(gain)};
}

// decoder: the four tensors of Decoder; rays: origins, directions, near, far
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& planes, at::TensorList decoder, at::TensorList rays,
                                                   const Tensor& coarse, const Tensor& fine, double box,
                                                   at::IntArrayRef depths, double gain, bool leaky, bool sigmoid) {
  const Renderer renderer = make_renderer(planes, decoder, rays, box, depths, gain, leaky, sigmoid);
  const Jitter coarse_jitter = {data(coarse), coarse.size(1), coarse.size(2)};
  const Jitter fine_jitter = {data(fine), fine.size(1), fine.size(2)};
  const int64_t images = renderer.rays.images, count = coarse.size(2) + fine.size(2);
  const auto options = planes.options();
  Tensor features = at::empty({images, renderer.rays.rays, renderer.shape.outputs - 1}, options);
  Tensor mask = at::empty({images, renderer.rays.rays}, options);
  Tensor depth = at::empty({images, renderer.rays.rays}, options);
  Tensor sample_depths = at::empty({images, renderer.rays.rays, count}, options);
  const Pixels pixels = {features.data_ptr<float>(), mask.data_ptr<float>(), depth.data_ptr<float>(),
                         sample_depths.data_ptr<float>()};
  const int64_t packets = renderer.rays.packets_per_image();
  at::parallel_for(0, images * packets, 16, [&](int64_t begin, int64_t end) {
    Samples samples(renderer.shape, count);
    for (int64_t i = begin; i < end; i++) {
      const Packet packet = renderer.rays.packet(i / packets, i % packets);
      if (packet.empty()) {
        miss_packet(renderer, packet, count, pixels);
        continue;
      }
      sample_packet(renderer, packet, coarse_jitter, fine_jitter, samples);
      composite_packet(renderer, packet, count, samples, pixels);
    }
  });
  return {features, mask, depth, sample_depths};
}

// Gradients of the planes, and of the decoder's numbers in one row, given those of features, mask and depth.
std::tuple<Tensor, Tensor> backward(const Tensor& planes, at::TensorList decoder, at::TensorList rays,
                                    const Tensor& sample_depths, at::TensorList pixel_gradients, double box,
                                    at::IntArrayRef depths, double gain, bool leaky, bool sigmoid) {
  const Renderer renderer = make_renderer(planes, decoder, rays, box, depths, gain, leaky, sigmoid);
  const PixelGradients gradients = {data(pixel_gradients[0]), data(pixel_gradients[1]), data(pixel_gradients[2]),
                                    data(sample_depths)};
  const FieldShape& shape = renderer.shape;
  const Transposed transposed(shape, renderer.weights);
  const int64_t images = renderer.rays.images, packets = renderer.rays.packets_per_image();
  const int64_t threads = at::get_num_threads(), count = sample_depths.size(2), weights = shape.weight_count();
  const int64_t copies = std::min(MAX_COPIES, images < threads ? (threads + images - 1) / images : 1);
  Tensor plane_gradient = at::zeros({images, copies, planes.size(1), planes.size(2), planes.size(3), planes.size(4)},
                                    planes.options());
  Tensor weight_gradient = at::zeros({images * copies, weights}, planes.options());
  float *plane_data = plane_gradient.data_ptr<float>(), *weight_data = weight_gradient.data_ptr<float>();
  at::parallel_for(0, images * copies, 1, [&](int64_t begin, int64_t end) {
    BackwardSamples samples(shape, count);
    std::vector<Lanes> total(weights);
    for (int64_t task = begin; task < end; task++) {
      const int64_t image = task / copies, part = task % copies;
      std::fill(total.begin(), total.end(), Lanes{});
      for (int64_t i = packets * part / copies; i < packets * (part + 1) / copies; i++) {
        const Packet packet = renderer.rays.packet(image, i);
        if (packet.empty()) continue;
        recompute(renderer, packet, count, gradients.sample_depths, samples);
        composite_backward(renderer, packet, count, gradients, samples);
        decode_backward(shape, transposed, count, samples, WeightGradients(shape, total.data()));
        planes_backward(renderer, packet, transposed, count, samples, plane_data + task * shape.planes.size());
      }
      for (int64_t i = 0; i < weights; i++) weight_data[task * weights + i] = sum(total[i]);
    }
  });
  return {copies == 1 ? plane_gradient.squeeze(1) : plane_gradient.sum(1), weight_gradient.sum(0)};
}

// Features and raw density of points [images, points, 3].
std::tuple<Tensor, Tensor> field(const Tensor& planes, at::TensorList decoder, const Tensor& points, double box,
                                 at::IntArrayRef depths, bool leaky, bool sigmoid) {
  const FieldShape shape = field_shape(planes, decoder[2], box, depths, leaky, sigmoid);
  const DecoderWeights weights = {data(decoder[0]), data(decoder[1]), data(decoder[2]), data(decoder[3])};
  const float *texels = data(planes), *places = data(points);
  const int64_t images = points.size(0), count = points.size(1), packets = (count + LANES - 1) / LANES;
  const int64_t features = shape.outputs - 1;
  Tensor colors = at::empty({images, count, features}, planes.options());
  Tensor density = at::empty({images, count}, planes.options());
  float *color_data = colors.data_ptr<float>(), *density_data = density.data_ptr<float>();
  at::parallel_for(0, images * packets, 64, [&](int64_t begin, int64_t end) {
    std::vector<Lanes> looked_up(shape.planes.channels), hidden(shape.hidden), outputs(shape.outputs);
    for (int64_t i = begin; i < end; i++) {
      const int64_t image = i / packets, first = i % packets * LANES, last = std::min(count, first + LANES);
      Lanes point[3];
      for (int lane = 0; lane < LANES; lane++)
        for (int axis = 0; axis < 3; axis++)
          point[axis][lane] = places[(image * count + std::min(first + lane, last - 1)) * 3 + axis];
      look_up(shape, texels + image * shape.planes.size(), point, looked_up.data());
      decode(shape, weights, looked_up.data(), hidden.data(), outputs.data());
      for (int64_t k = 0; k < features; k++) outputs[1 + k] = color(shape, outputs[1 + k]);
      for (int64_t p = first; p < last; p++) {
        density_data[image * count + p] = outputs[0][p - first];
        for (int64_t k = 0; k < features; k++)
          color_data[(image * count + p) * features + k] = outputs[1 + k][p - first];
      }
    }
  });
  return {colors, density};
}

}  // namespace

TORCH_LIBRARY(styleavatar3d_cpu, library) {
  library.def(
      "render_planes(Tensor planes, Tensor[] decoder, Tensor[] rays, Tensor coarse, Tensor fine, float box, "
      "int[] depths, float gain, bool leaky, bool sigmoid) -> (Tensor, Tensor, Tensor, Tensor)",
      forward);
  library.def(
      "render_planes_backward(Tensor planes, Tensor[] decoder, Tensor[] rays, Tensor sample_depths, "
      "Tensor[] pixel_gradients, float box, int[] depths, float gain, bool leaky, bool sigmoid) -> (Tensor, Tensor)",
      backward);
  library.def(
      "sample_field(Tensor planes, Tensor[] decoder, Tensor points, float box, int[] depths, bool leaky, "
      "bool sigmoid) -> (Tensor, Tensor)",
      field);
}
