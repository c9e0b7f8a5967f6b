// Gradients of pixels -> gradients of decoder and planes, from samples that are recomputed at their saved depths.
#pragma once

#include "forward.h"

struct PixelGradients {
  const float *features, *mask, *depth, *sample_depths, *sample_noise;  // no noise: null
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
  std::vector<Lanes> depth, raw, features, hidden, outputs, hidden_gradient, output_gradient, pixel_gradient, share,
      density_kept;
  Light light;

  BackwardSamples(const FieldShape& shape, int count)
      : depth(count), raw(count), features(count * shape.planes.channels), hidden(count * shape.hidden),
        outputs(count * shape.outputs), hidden_gradient(count * shape.hidden), output_gradient(count * shape.outputs),
        pixel_gradient(shape.outputs - 1), share(count), density_kept(count) {}
};

inline void recompute(const Renderer& renderer, const Packet& packet, int count, PixelGradients saved,
               BackwardSamples& samples) {
  const FieldShape& shape = renderer.shape;
  for (int i = 0; i < count; i++) {
    Lanes noise = {};
    for (int lane = 0; lane < LANES; lane++) {
      const int64_t place = (packet.image * renderer.rays.rays + packet.ray(lane)) * count + i;
      samples.depth[i][lane] = saved.sample_depths[place];
      if (saved.sample_noise) noise[lane] = saved.sample_noise[place];
    }
    Lanes point[3], *features = &samples.features[i * shape.planes.channels];
    Lanes* outputs = &samples.outputs[i * shape.outputs];
    packet.point(samples.depth[i], point);
    look_up(shape, packet.image, point, features);
    decode(shape, renderer.weights, features, &samples.hidden[i * shape.hidden], outputs);
    const IntLanes outside = renderer.outside(point);
    samples.raw[i] = outside ? broadcast(CROPPED) : outputs[0] + noise;
    samples.density_kept[i] = outside ? Lanes{} : within_limit(shape, outputs[0]);
  }
  samples.light.trace(count, samples.depth.data(), samples.raw.data(), renderer.gain);
}

// Pixel gradients -> gradients of the decoder's limited outputs. With weight w_i = T_i - T_(i+1), T falling by
// exp(-optical depth), the slope for interval i's optical depth is T_(i+1) dw_i - sum_(j > i) w_j dw_j.
inline void composite_backward(const Renderer& renderer, const Packet& packet, int count, PixelGradients gradients,
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
      gradient[1 + k] = samples.pixel_gradient[k] * weight * color_slope(shape, shown) * within_limit(shape, output[k]);
    }
    samples.share[i] = share;
    gradient[0] = Lanes{};
  }
  Lanes behind = {};
  for (int i = count - 2; i >= 0; i--) {
    const Lanes middle = (samples.depth[i] + samples.depth[i + 1]) * 0.5f;
    const Lanes of_weight = (samples.share[i] + samples.share[i + 1]) * 0.5f + mask + depth * (middle - packet.backdrop);
    const Lanes of_optical_depth = samples.light.before[i + 1] * of_weight - behind;
    behind += samples.light.weight[i] * of_weight;
    const Lanes slope = sigmoid((samples.raw[i] + samples.raw[i + 1]) * 0.5f - 1.0f);
    const Lanes half = of_optical_depth * slope * (samples.depth[i + 1] - samples.depth[i]) * (0.5f * renderer.gain);
    samples.output_gradient[i * shape.outputs] += half;
    samples.output_gradient[(i + 1) * shape.outputs] += half;
  }
  for (int i = 0; i < count; i++) samples.output_gradient[i * shape.outputs] *= samples.density_kept[i];
}

inline void decode_backward(const FieldShape& shape, const Transposed& transposed, int count, BackwardSamples& samples,
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

inline void planes_backward(const Renderer& renderer, const Packet& packet, const Transposed& transposed, int count,
                     BackwardSamples& samples, float* const* plane_gradients) {
  const FieldShape& shape = renderer.shape;
  Lanes gradient[MAX_CHANNELS], point[3];
  for (int i = 0; i < count; i++) {
    affine(&samples.hidden_gradient[i * shape.hidden], shape.hidden, transposed.hidden_weight.data(), nullptr, gradient,
           shape.planes.channels);
    packet.point(samples.depth[i], point);
    spread(shape, gradient, point, plane_gradients);
  }
}
