// Along rays: where to look, how samples hide each other. `ops/composite.py` says what it means.
#pragma once

#include "field.cuh"

constexpr float WEIGHT_FLOOR = 0.01f;  // of smoothed weights
constexpr float PDF_FLOOR = 1e-5f;
constexpr float CROPPED = -1000.0f;  // raw density outside the crop

__device__ inline bool misses(const Job& job, int64_t ray) { return !(job.far[ray] > job.near[ray]); }

__device__ inline void point_at(const Job& job, int64_t ray, float depth, float point[3]) {
  for (int axis = 0; axis < 3; axis++) point[axis] = job.origins[ray * 3 + axis] + depth * job.directions[ray * 3 + axis];
}

__device__ inline bool cropped(const Job& job, const float point[3]) {
  return fabsf(point[0]) > job.crop || fabsf(point[2]) > job.crop;
}

// Entry of values [image][rows][count], where one row may serve all rays of an image.
__device__ inline float of_row(const float* values, int rows, int count, int64_t image, int ray, int sample) {
  return values[(image * rows + (rows == 1 ? 0 : ray)) * count + sample];
}

__device__ inline float coarse_depth(const Job& job, int64_t image, int ray, int sample) {
  const float jitter = of_row(job.coarse, job.coarse_rows, job.coarse_count, image, ray, sample);
  const float share = (jitter + sample) * (1.0f / (job.coarse_count - job.eg3d_sampling));
  const float near = job.near[image * job.rays + ray], far = fmaxf(job.far[image * job.rays + ray], near);
  if (!job.disparity) return near + (far - near) * share;
  return 1.0f / (1.0f / near + (1.0f / far - 1.0f / near) * share);
}

// Weights of the intervals behind samples (the last has none) and the light that reaches each sample.
__device__ inline void trace(int count, const float* depth, const float* raw, float gain, float* weight, float* before) {
  before[0] = 1.0f;
  for (int i = 0; i + 1 < count; i++) {
    const float optical_depth = gain * softplus((raw[i] + raw[i + 1]) * 0.5f - 1.0f) * (depth[i + 1] - depth[i]);
    before[i + 1] = before[i] * expf(-optical_depth);
    weight[i] = before[i] - before[i + 1];
  }
  weight[count - 1] = 0.0f;
}

// Intervals take the mean colour of their ends: what a sample's own colour counts for.
__device__ inline float of_sample(const float* weight, int i) { return 0.5f * (i ? weight[i - 1] + weight[i] : weight[i]); }

// Smoothed weights, summed up: where fine samples are drawn. Piece i lies between edges i and i + 1.
struct Distribution {
  int skipped, pieces;

  __device__ Distribution(const Job& job)
      : skipped(job.eg3d_sampling ? 1 : 0), pieces(job.coarse_count - 1 - 2 * skipped) {}

  __device__ float edge(const float* depth, int i) const { return skipped ? (depth[i] + depth[i + 1]) * 0.5f : depth[i]; }

  __device__ void accumulate(const float* weight, float* cdf) const {
    cdf[0] = 0.0f;
    for (int i = 0; i < pieces; i++) {
      const float* of_piece = weight + i + skipped;
      const float left = i + skipped ? fmaxf(of_piece[-1], of_piece[0]) : of_piece[0];
      cdf[i + 1] = cdf[i] + 0.5f * (left + fmaxf(of_piece[0], of_piece[1])) + (WEIGHT_FLOOR + PDF_FLOOR);
    }
  }

  __device__ float draw(const float* depth, const float* cdf, float quantile) const {
    const float target = quantile * cdf[pieces];
    int piece = 0;
    while (piece + 1 < pieces && target >= cdf[piece + 1]) piece++;
    const float start = edge(depth, piece), share = (target - cdf[piece]) / (cdf[piece + 1] - cdf[piece]);
    return start + share * (edge(depth, piece + 1) - start);
  }
};

// Place of sample i in the merged order of two sorted lists, coarse before fine where equal.
__device__ inline int rank_of(int i, int coarse, int count, const float* depth) {
  int rank = i < coarse ? i : i - coarse;
  if (i < coarse)
    for (int j = coarse; j < count; j++) rank += depth[j] < depth[i];
  else
    for (int j = 0; j < coarse; j++) rank += !(depth[i] < depth[j]);
  return rank;
}
