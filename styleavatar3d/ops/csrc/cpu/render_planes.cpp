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

#include "backward.h"

namespace {

using at::Tensor;

constexpr int64_t MAX_COPIES = 8;  // of one image's plane gradient

const float* data(const Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat, "contiguous float32 tensors are needed");
  return tensor.const_data_ptr<float>();
}

Level make_level(const Tensor& planes, int64_t images) {
  TORCH_CHECK(planes.is_contiguous(), "contiguous planes are needed");
  const int64_t size = planes.numel() / planes.size(0);
  TORCH_CHECK(size < (int64_t(1) << 31), "planes of one image: fewer than 2^31 numbers");
  return {int(planes.size(1)), int(planes.size(2)), size, planes.size(0) == 1 && images > 1, planes.const_data_ptr()};
}

// numbers: box, density gain, limit, crop; switches: leaky hidden, colours, EG3D's axes, EG3D's sampling, disparity
FieldShape field_shape(at::TensorList levels, const Tensor& output_weight, int64_t images, at::ArrayRef<double> numbers,
                       at::IntArrayRef depths, at::IntArrayRef switches) {
  FieldShape shape;
  shape.planes = {int(levels[0].size(3)), int(levels[0].size(4)), {int(depths[0]), int(depths[1]), int(depths[2])},
                  PLANE_AXES[switches[2]], float(2 / numbers[0]), levels[0].scalar_type() == at::kBFloat16};
  for (const Tensor& level : levels) shape.levels.push_back(make_level(level, images));
  shape.hidden = output_weight.size(0);
  shape.outputs = output_weight.size(1);
  shape.leaky = switches[0];
  shape.colors = Colors(switches[1]);
  shape.limit = numbers[2];
  TORCH_CHECK(shape.planes.channels % 8 == 0 && shape.planes.channels <= MAX_CHANNELS, "channels: 8, 16, 24 or 32");
  TORCH_CHECK(shape.hidden % 4 == 0, "hidden: a multiple of 4");
  TORCH_CHECK(shape.outputs <= MAX_FEATURES + 1, "at most ", MAX_FEATURES, " features");
  return shape;
}

Renderer make_renderer(at::TensorList levels, at::TensorList decoder, at::TensorList rays, at::ArrayRef<double> numbers,
                       at::IntArrayRef depths, at::IntArrayRef switches) {
  const int64_t images = rays[0].size(0);
  return {field_shape(levels, decoder[2], images, numbers, depths, switches),
          {data(decoder[0]), data(decoder[1]), data(decoder[2]), data(decoder[3])},
          {data(rays[0]), data(rays[1]), data(rays[2]), data(rays[3]), data(rays[4]), images, rays[0].size(1)},
          {switches[3] != 0, switches[4] != 0},
          float(numbers[1]),
          float(numbers[3])};
}

// decoder: the four tensors of Decoder; rays: origins, directions, near, far, backdrop; samples: coarse, fine, noise
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(at::TensorList levels, at::TensorList decoder,
                                                           at::TensorList rays, at::TensorList samples_of_rays,
                                                           at::ArrayRef<double> numbers, at::IntArrayRef depths,
                                                           at::IntArrayRef switches) {
  const Renderer renderer = make_renderer(levels, decoder, rays, numbers, depths, switches);
  const Tensor &coarse = samples_of_rays[0], &fine = samples_of_rays[1], &noise = samples_of_rays[2];
  const int64_t images = renderer.rays.images, count = coarse.size(2) + fine.size(2);
  const SampleValues coarse_jitter = {data(coarse), coarse.size(1), coarse.size(2)};
  const SampleValues fine_jitter = {data(fine), fine.size(1), fine.size(2)};
  const SampleValues density_noise = {data(noise), renderer.rays.rays, noise.numel() ? count : 0};
  const auto options = rays[0].options();
  Tensor features = at::empty({images, renderer.rays.rays, renderer.shape.outputs - 1}, options);
  Tensor mask = at::empty({images, renderer.rays.rays}, options);
  Tensor depth = at::empty({images, renderer.rays.rays}, options);
  Tensor sample_depths = at::empty({images, renderer.rays.rays, count}, options);
  Tensor sample_noise = at::empty(noise.sizes(), options);
  const Pixels pixels = {features.data_ptr<float>(), mask.data_ptr<float>(), depth.data_ptr<float>(),
                         sample_depths.data_ptr<float>(), noise.numel() ? sample_noise.data_ptr<float>() : nullptr};
  const int64_t packets = renderer.rays.packets_per_image();
  at::parallel_for(0, images * packets, 16, [&](int64_t begin, int64_t end) {
    const TinyIsZero quick;
    Samples samples(renderer.shape, count);
    for (int64_t i = begin; i < end; i++) {
      const Packet packet = renderer.rays.packet(i / packets, i % packets);
      if (packet.empty()) {
        miss_packet(renderer, packet, count, pixels);
        continue;
      }
      sample_packet(renderer, packet, coarse_jitter, fine_jitter, density_noise, samples);
      composite_packet(renderer, packet, count, samples, pixels);
    }
  });
  return {features, mask, depth, sample_depths, sample_noise};
}

// Gradients of the levels, then of the decoder's numbers in one row, given those of features, mask and depth. `drawn`
// holds what forward returned last: depths and noise of sorted samples.
std::vector<Tensor> backward(at::TensorList levels, at::TensorList decoder, at::TensorList rays, at::TensorList drawn,
                             at::TensorList pixel_gradients, at::ArrayRef<double> numbers, at::IntArrayRef depths,
                             at::IntArrayRef switches) {
  const Renderer renderer = make_renderer(levels, decoder, rays, numbers, depths, switches);
  const PixelGradients gradients = {data(pixel_gradients[0]), data(pixel_gradients[1]), data(pixel_gradients[2]),
                                    data(drawn[0]), drawn[1].numel() ? data(drawn[1]) : nullptr};
  const FieldShape& shape = renderer.shape;
  const Transposed transposed(shape, renderer.weights);
  const int64_t images = renderer.rays.images, packets = renderer.rays.packets_per_image();
  const int64_t threads = at::get_num_threads(), count = drawn[0].size(2), weights = shape.weight_count();
  const int64_t copies = std::min(MAX_COPIES, images < threads ? (threads + images - 1) / images : 1);
  std::vector<Tensor> results;
  for (const Level& level : shape.levels)
    results.push_back(at::zeros({level.shared ? 1 : images, level.shared ? images * copies : copies, level.height,
                                 level.width, shape.planes.slices, shape.planes.channels}, rays[0].options()));
  Tensor weight_gradient = at::zeros({images * copies, weights}, rays[0].options());
  float* weight_data = weight_gradient.data_ptr<float>();
  at::parallel_for(0, images * copies, 1, [&](int64_t begin, int64_t end) {
    const TinyIsZero quick;
    BackwardSamples samples(shape, count);
    std::vector<Lanes> total(weights);
    std::vector<float*> plane_gradients(shape.levels.size());
    for (int64_t task = begin; task < end; task++) {
      const int64_t image = task / copies, part = task % copies;
      std::fill(total.begin(), total.end(), Lanes{});
      for (size_t i = 0; i < plane_gradients.size(); i++)
        plane_gradients[i] = results[i].data_ptr<float>() + task * shape.levels[i].size;
      for (int64_t i = packets * part / copies; i < packets * (part + 1) / copies; i++) {
        const Packet packet = renderer.rays.packet(image, i);
        if (packet.empty()) continue;
        recompute(renderer, packet, count, gradients, samples);
        composite_backward(renderer, packet, count, gradients, samples);
        decode_backward(shape, transposed, count, samples, WeightGradients(shape, total.data()));
        planes_backward(renderer, packet, transposed, count, samples, plane_gradients.data());
      }
      for (int64_t i = 0; i < weights; i++) weight_data[task * weights + i] = sum(total[i]);
    }
  });
  for (Tensor& result : results) result = result.size(1) == 1 ? result.squeeze(1) : result.sum(1);
  results.push_back(weight_gradient.sum(0));
  return results;
}

// Features and raw density of points [images, points, 3].
std::tuple<Tensor, Tensor> field(at::TensorList levels, at::TensorList decoder, const Tensor& points,
                                 at::ArrayRef<double> numbers, at::IntArrayRef depths, at::IntArrayRef switches) {
  const int64_t images = points.size(0), count = points.size(1), packets = (count + LANES - 1) / LANES;
  const FieldShape shape = field_shape(levels, decoder[2], images, numbers, depths, switches);
  const DecoderWeights weights = {data(decoder[0]), data(decoder[1]), data(decoder[2]), data(decoder[3])};
  const float* places = data(points);
  const int64_t features = shape.outputs - 1;
  Tensor colors = at::empty({images, count, features}, points.options());
  Tensor density = at::empty({images, count}, points.options());
  float *color_data = colors.data_ptr<float>(), *density_data = density.data_ptr<float>();
  at::parallel_for(0, images * packets, 64, [&](int64_t begin, int64_t end) {
    const TinyIsZero quick;
    std::vector<Lanes> looked_up(shape.planes.channels), hidden(shape.hidden), outputs(shape.outputs);
    for (int64_t i = begin; i < end; i++) {
      const int64_t image = i / packets, first = i % packets * LANES, last = std::min(count, first + LANES);
      Lanes point[3];
      for (int lane = 0; lane < LANES; lane++)
        for (int axis = 0; axis < 3; axis++)
          point[axis][lane] = places[(image * count + std::min(first + lane, last - 1)) * 3 + axis];
      look_up(shape, image, point, looked_up.data());
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

TORCH_LIBRARY_FRAGMENT(styleavatar3d_cpu, library) {
  library.def(
      "render_planes(Tensor[] levels, Tensor[] decoder, Tensor[] rays, Tensor[] samples, float[] numbers, "
      "int[] depths, int[] switches) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      forward);
  library.def(
      "render_planes_backward(Tensor[] levels, Tensor[] decoder, Tensor[] rays, Tensor[] drawn, "
      "Tensor[] pixel_gradients, float[] numbers, int[] depths, int[] switches) -> Tensor[]",
      backward);
  library.def(
      "sample_field(Tensor[] levels, Tensor[] decoder, Tensor points, float[] numbers, int[] depths, "
      "int[] switches) -> (Tensor, Tensor)",
      field);
}
