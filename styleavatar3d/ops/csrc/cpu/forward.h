// Packets of rays -> pixels: look, look closer where the light is, composite.
#pragma once

#include "field.h"
#include "rays.h"

constexpr float CROPPED = -1000.0f;  // raw density outside the crop

struct Samples {
  std::vector<Lanes> depth, features, hidden, outputs, sorted_depth, sorted_raw, sorted_noise, edge, cdf;
  std::vector<IntLanes> rank;
  Light light;

  Samples(const FieldShape& shape, int count)
      : depth(count), features(shape.planes.channels), hidden(shape.hidden), outputs(count * shape.outputs),
        sorted_depth(count), sorted_raw(count), sorted_noise(count), rank(count) {}
};

struct Renderer {
  FieldShape shape;
  DecoderWeights weights;
  Rays rays;
  Sampling sampling;
  float gain, crop;

  IntLanes outside(const Lanes point[3]) const {
    return (point[0] > crop) | (point[0] < -crop) | (point[2] > crop) | (point[2] < -crop);
  }
};

struct Pixels {
  float *features, *mask, *depth, *sample_depths, *sample_noise;
};

inline void evaluate(const Renderer& renderer, const Packet& packet, const SampleValues& noise, int first, int last,
              Samples& samples) {
  const FieldShape& shape = renderer.shape;
  for (int i = first; i < last; i++) {
    Lanes point[3], *outputs = &samples.outputs[i * shape.outputs];
    packet.point(samples.depth[i], point);
    look_up(shape, packet.image, point, samples.features.data());
    decode(shape, renderer.weights, samples.features.data(), samples.hidden.data(), outputs);
    if (noise.samples) outputs[0] += noise.at(packet, i);
    outputs[0] = renderer.outside(point) ? broadcast(CROPPED) : outputs[0];
  }
}

// Fills depth and outputs of all samples (coarse, then fine) and their sorted order.
inline void sample_packet(const Renderer& renderer, const Packet& packet, const SampleValues& coarse, const SampleValues& fine,
                   const SampleValues& noise, Samples& samples) {
  const int coarse_count = coarse.samples, count = coarse.samples + fine.samples, outputs = renderer.shape.outputs;
  renderer.sampling.coarse_depths(packet, coarse, samples.depth.data());
  evaluate(renderer, packet, noise, 0, coarse_count, samples);
  for (int i = 0; i < coarse_count; i++) samples.sorted_raw[i] = samples.outputs[i * outputs];
  if (fine.samples) {
    samples.light.trace(coarse_count, samples.depth.data(), samples.sorted_raw.data(), renderer.gain);
    renderer.sampling.fine_depths(packet, coarse_count, samples.depth.data(), samples.light, fine, samples.edge,
                                  samples.cdf, &samples.depth[coarse_count]);
    evaluate(renderer, packet, noise, coarse_count, count, samples);
  }
  rank_samples(coarse_count, fine.samples, samples.depth.data(), samples.rank.data());
  for (int i = 0; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) {
      const int place = samples.rank[i][lane];
      samples.sorted_depth[place][lane] = samples.depth[i][lane];
      samples.sorted_raw[place][lane] = samples.outputs[i * outputs][lane];
    }
  for (int i = 0; noise.samples && i < count; i++) {
    const Lanes own = noise.at(packet, i);
    for (int lane = 0; lane < LANES; lane++) samples.sorted_noise[samples.rank[i][lane]][lane] = own[lane];
  }
}

inline void composite_packet(const Renderer& renderer, const Packet& packet, int count, Samples& samples, Pixels pixels) {
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
    pixels.depth[ray] = depth[lane] + behind[lane] * packet.backdrop[lane];
    for (int k = 0; k < features; k++) pixels.features[ray * features + k] = total[k][lane];
    for (int i = 0; i < count; i++) pixels.sample_depths[ray * count + i] = samples.sorted_depth[i][lane];
    if (pixels.sample_noise)
      for (int i = 0; i < count; i++) pixels.sample_noise[ray * count + i] = samples.sorted_noise[i][lane];
  }
}

inline void miss_packet(const Renderer& renderer, const Packet& packet, int count, Pixels pixels) {
  const int features = renderer.shape.outputs - 1;
  for (int lane = 0; lane < packet.count; lane++) {
    const int64_t ray = packet.image * renderer.rays.rays + packet.first_ray + lane;
    pixels.mask[ray] = 0;
    pixels.depth[ray] = packet.backdrop[lane];
    std::fill_n(pixels.features + ray * features, features, 0.0f);
    std::fill_n(pixels.sample_depths + ray * count, count, packet.near[lane]);
    if (pixels.sample_noise) std::fill_n(pixels.sample_noise + ray * count, count, 0.0f);
  }
}
