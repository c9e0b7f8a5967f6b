// Packets of rays, one a lane: where along them to look, and how their samples hide each other.
#pragma once

#include <algorithm>
#include <vector>

#include "lanes.h"

constexpr float WEIGHT_FLOOR = 0.01f;  // of smoothed weights
constexpr float PDF_FLOOR = 1e-5f;

// ------------------------------------------------------------------------------------------------------------- rays

struct Packet {
  int64_t image, first_ray, count;  // the last ray fills the lanes beyond count
  Lanes origin[3], direction[3], near, far;

  int64_t ray(int lane) const { return first_ray + std::min<int64_t>(lane, count - 1); }
  bool empty() const {
    for (int lane = 0; lane < count; lane++)
      if (far[lane] > near[lane]) return false;
    return true;
  }
  void point(Lanes depth, Lanes* result) const {
    for (int axis = 0; axis < 3; axis++) result[axis] = origin[axis] + depth * direction[axis];
  }
};

struct Rays {
  const float *origins, *directions, *near, *far;
  int64_t images, rays;

  int64_t packets_per_image() const { return (rays + LANES - 1) / LANES; }

  Packet packet(int64_t image, int64_t index) const {
    Packet packet;
    packet.image = image;
    packet.first_ray = index * LANES;
    packet.count = std::min<int64_t>(LANES, rays - packet.first_ray);
    for (int lane = 0; lane < LANES; lane++) {
      const int64_t ray = image * rays + packet.ray(lane);
      for (int axis = 0; axis < 3; axis++) {
        packet.origin[axis][lane] = origins[ray * 3 + axis];
        packet.direction[axis][lane] = directions[ray * 3 + axis];
      }
      packet.near[lane] = near[ray];
      packet.far[lane] = far[ray];
    }
    return packet;
  }
};

// Values [images, rays or 1, samples]: one row per ray, or one for all rays of an image.
struct Jitter {
  const float* values;
  int64_t rows, samples;

  Lanes at(const Packet& packet, int64_t sample) const {
    Lanes result;
    for (int lane = 0; lane < LANES; lane++)
      result[lane] = values[(packet.image * rows + (rows == 1 ? 0 : packet.ray(lane))) * samples + sample];
    return result;
  }
};

// ------------------------------------------------------------------------------------------------------ compositing

// Light along rays: weights of the intervals between samples, and the transmittance at each sample.
struct Light {
  std::vector<Lanes> weight, before;

  void trace(int samples, const Lanes* depth, const Lanes* raw, float gain) {
    weight.resize(samples);
    before.resize(samples);
    before[0] = broadcast(1.0f);
    for (int i = 0; i + 1 < samples; i++) {
      const Lanes optical_depth = gain * softplus((raw[i] + raw[i + 1]) * 0.5f - 1.0f) * (depth[i + 1] - depth[i]);
      before[i + 1] = before[i] * exponential(-optical_depth);
      weight[i] = before[i] - before[i + 1];
    }
    weight[samples - 1] = Lanes{};
  }

  // Intervals take the mean colour of their ends: what a sample's own colour counts for.
  Lanes of_sample(int i) const { return 0.5f * (i ? weight[i - 1] + weight[i] : weight[i]); }
};

// Depths of `jitter.samples` quantiles of the smoothed weights, in order.
inline void importance_depths(const Packet& packet, int coarse, const Lanes* depth, const Light& light, const Jitter& jitter,
                              std::vector<Lanes>& cdf, Lanes* result) {
  cdf.resize(coarse);
  cdf[0] = Lanes{};
  for (int i = 0; i + 1 < coarse; i++) {
    const Lanes left = i ? larger(light.weight[i - 1], light.weight[i]) : light.weight[i];
    const Lanes right = larger(light.weight[i], light.weight[i + 1]);  // the weight after the last is 0
    cdf[i + 1] = cdf[i] + 0.5f * (left + right) + (WEIGHT_FLOOR + PDF_FLOOR);
  }
  for (int64_t sample = 0; sample < jitter.samples; sample++) {
    const Lanes target = (jitter.at(packet, sample) + float(sample)) * (1.0f / jitter.samples) * cdf[coarse - 1];
    Lanes start = depth[0], length = depth[1] - depth[0], below = cdf[0], mass = cdf[1] - cdf[0];
    for (int i = 1; i + 1 < coarse; i++) {
      const IntLanes beyond = target >= cdf[i];
      start = beyond ? depth[i] : start;
      length = beyond ? depth[i + 1] - depth[i] : length;
      below = beyond ? cdf[i] : below;
      mass = beyond ? cdf[i + 1] - cdf[i] : mass;
    }
    result[sample] = start + (target - below) / mass * length;
  }
}

// Place of every sample in the merged order of two sorted lists, coarse before fine where equal.
inline void rank_samples(int coarse, int fine, const Lanes* depth, IntLanes* rank) {
  for (int i = 0; i < coarse + fine; i++) rank[i] = IntLanes{} + (i < coarse ? i : i - coarse);
  for (int i = 0; i < coarse; i++)
    for (int j = coarse; j < coarse + fine; j++) {
      const IntLanes fine_is_first = depth[j] < depth[i];  // -1 where true
      rank[i] -= fine_is_first;
      rank[j] += fine_is_first + 1;
    }
}
