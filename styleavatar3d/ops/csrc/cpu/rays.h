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
  Lanes origin[3], direction[3], near, far, backdrop;

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
  const float *origins, *directions, *near, *far, *backdrop;
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
      packet.backdrop[lane] = backdrop[ray];
    }
    return packet;
  }
};

// Values [images, rays or 1, samples]: one row per ray, or one for all rays of an image.
struct SampleValues {
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

// Where along a ray to look; `composite.py` says what it means.
struct Sampling {
  bool eg3d, disparity;

  void coarse_depths(const Packet& packet, const SampleValues& jitter, Lanes* result) const {
    const float part = 1.0f / (jitter.samples - eg3d);
    const Lanes length = larger(packet.far - packet.near, Lanes{});
    const Lanes nearest = 1.0f / packet.near, span = 1.0f / larger(packet.far, packet.near) - nearest;
    for (int64_t i = 0; i < jitter.samples; i++) {
      const Lanes share = (jitter.at(packet, i) + float(i)) * part;
      result[i] = disparity ? 1.0f / (nearest + span * share) : packet.near + length * share;
    }
  }

  // Depths of quantiles of the smoothed weights, in order. Piece i of their distribution lies between the depths of
  // coarse samples i and i + 1; in EG3D's way, that of weight i + 1 between the middles of intervals i and i + 1.
  void fine_depths(const Packet& packet, int coarse, const Lanes* depth, const Light& light, const SampleValues& fine,
                   std::vector<Lanes>& edge, std::vector<Lanes>& cdf, Lanes* result) const {
    const int skipped = eg3d ? 1 : 0, pieces = coarse - 1 - 2 * skipped;
    edge.resize(coarse);
    cdf.resize(coarse);
    cdf[0] = Lanes{};
    for (int i = 0; i <= pieces; i++) edge[i] = eg3d ? (depth[i] + depth[i + 1]) * 0.5f : depth[i];
    for (int i = 0; i < pieces; i++) {
      const Lanes* weight = light.weight.data() + i + skipped;
      const Lanes left = i + skipped ? larger(weight[-1], weight[0]) : weight[0];
      const Lanes right = larger(weight[0], weight[1]);  // the weight after the last is 0
      cdf[i + 1] = cdf[i] + 0.5f * (left + right) + (WEIGHT_FLOOR + PDF_FLOOR);
    }
    for (int64_t sample = 0; sample < fine.samples; sample++) {
      const Lanes value = fine.at(packet, sample);
      const Lanes target = (eg3d ? value : (value + float(sample)) * (1.0f / fine.samples)) * cdf[pieces];
      Lanes start = edge[0], length = edge[1] - edge[0], below = cdf[0], mass = cdf[1] - cdf[0];
      for (int i = 1; i < pieces; i++) {
        const IntLanes beyond = target >= cdf[i];
        start = beyond ? edge[i] : start;
        length = beyond ? edge[i + 1] - edge[i] : length;
        below = beyond ? cdf[i] : below;
        mass = beyond ? cdf[i + 1] - cdf[i] : mass;
      }
      result[sample] = start + (target - below) / mass * length;
    }
  }
};

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
