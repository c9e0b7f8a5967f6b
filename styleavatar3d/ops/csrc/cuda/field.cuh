// The field that planes and decoder define, evaluated by one thread a point, and its gradients.
//
// Blocks work in phases between which they synchronise; within a phase, threads take turns at independent items. So
// the code is right for any number of threads, one included: the tests run it on a CPU that way.
#pragma once

#include <cmath>
#include <cstring>

#include "job.h"

#define FOR_EACH(item, count) for (int item = threadIdx.x; item < (count); item += blockDim.x)

constexpr float LEAKY_SLOPE = 0.2f, LEAKY_GAIN = 1.41421356f;
enum Colors { COLORS_NONE, COLORS_SIGMOID, COLORS_LEAKY };

// ------------------------------------------------------------------------------------------------------- activations

__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Not-a-number passes through, so that a broken network shows.
__device__ inline float limited(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; }

__device__ inline float within_limit(float x, float limit) { return x > -limit && x < limit ? 1.0f : 0.0f; }

__device__ inline float color(const Job& job, float x) {
  if (job.colors == COLORS_SIGMOID) return sigmoid(x) * 1.002f - 0.001f;
  return job.colors == COLORS_LEAKY ? fmaxf(x, x * LEAKY_SLOPE) * LEAKY_GAIN : x;
}

// Slope of the colour activation, from its value.
__device__ inline float color_slope(const Job& job, float color) {
  if (job.colors == COLORS_NONE) return 1.0f;
  if (job.colors == COLORS_LEAKY) return color > 0 ? LEAKY_GAIN : LEAKY_GAIN * LEAKY_SLOPE;
  const float share = (color + 0.001f) * (1.0f / 1.002f);
  return 1.002f * share * (1.0f - share);
}

// ------------------------------------------------------------------------------------------------------------ planes

struct alignas(16) Four {
  float value[4];
};

struct alignas(16) EightHalves {
  uint16_t value[8];
};

// total += weight * texel
template <int CHANNELS>
__device__ inline void add_texel(const float* texel, float weight, float* total) {
#pragma unroll
  for (int first = 0; first < CHANNELS; first += 4) {
    const Four four = *(const Four*)(texel + first);
#pragma unroll
    for (int i = 0; i < 4; i++) total[first + i] += weight * four.value[i];
  }
}

template <int CHANNELS>
__device__ inline void add_texel(const uint16_t* texel, float weight, float* total) {
#pragma unroll
  for (int first = 0; first < CHANNELS; first += 8) {
    const EightHalves eight = *(const EightHalves*)(texel + first);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t bits = uint32_t(eight.value[i]) << 16;
      float value;
      memcpy(&value, &bits, sizeof value);
      total[first + i] += weight * value;
    }
  }
}

// The two texels (or slices) around a coordinate in [-1, 1]; weight 0 outside, index always valid.
struct Neighbours {
  int index[2];
  float weight[2];
};

__device__ inline Neighbours neighbours(float coordinate, int size) {
  const float place = fminf(fmaxf((coordinate + 1.0f) * (0.5f * size) - 0.5f, -1.0f), float(size));
  const int first = int(floorf(place));
  const float share = place - first;
  Neighbours result;
  for (int side = 0; side < 2; side++) {
    const bool inside = first + side >= 0 && first + side < size;
    result.index[side] = inside ? first + side : 0;
    result.weight[side] = inside ? (side ? share : 1.0f - share) : 0.0f;
  }
  return result;
}

// Calls use(number of the texel's first channel, weight) for all texels that a point lies between.
template <class Use>
__device__ inline void for_each_corner(const Job& job, const Level& level, const float point[3], Use use) {
  constexpr int AXES[2][3][3] = {{{0, 1, 2}, {0, 2, 1}, {1, 2, 0}}, {{0, 1, 2}, {0, 2, 1}, {2, 0, 1}}};
  int first_slice = 0;
  for (int plane = 0; plane < 3; plane++) {
    const int* axes = AXES[job.eg3d_axes][plane];
    const int depth = job.depths[plane];
    const Neighbours u = neighbours(point[axes[0]] * job.to_unit, level.width);
    const Neighbours v = neighbours(point[axes[1]] * job.to_unit, level.height);
    Neighbours w = {{0, 0}, {1.0f, 0.0f}};  // a plane of one slice is the same at all depths
    if (depth > 1) w = neighbours(point[axes[2]] * job.to_unit, depth);
    for (int corner = 0; corner < (depth > 1 ? 8 : 4); corner++) {
      const int column = corner & 1, row = corner >> 1 & 1, side = corner >> 2;
      const int texel = (v.index[row] * level.width + u.index[column]) * job.slices + first_slice + w.index[side];
      use(texel * job.channels, v.weight[row] * u.weight[column] * w.weight[side] * (1.0f / 3));
    }
    first_slice += depth;
  }
}

template <int CHANNELS>
__device__ inline void look_up(const Job& job, int64_t image, const float point[3], float* features) {
#pragma unroll
  for (int i = 0; i < CHANNELS; i++) features[i] = 0;
  for (int index = 0; index < job.level_count; index++) {
    const Level& level = job.levels[index];
    const int64_t first = image * level.image_stride;
    if (job.bfloat16)
      for_each_corner(job, level, point, [&](int offset, float weight) {
        add_texel<CHANNELS>((const uint16_t*)level.texels + first + offset, weight, features);
      });
    else
      for_each_corner(job, level, point, [&](int offset, float weight) {
        add_texel<CHANNELS>((const float*)level.texels + first + offset, weight, features);
      });
  }
}

// The transpose of look_up. Many threads add to one texel, in any order: gradients vary in the last bits.
template <int CHANNELS>
__device__ inline void spread(const Job& job, int64_t image, const float point[3], const float* gradient) {
  for (int index = 0; index < job.level_count; index++) {
    const Level& level = job.levels[index];
    float* texels = level.gradient + image * level.image_stride;
    for_each_corner(job, level, point, [&](int offset, float weight) {
      if (weight != 0)
        for (int i = 0; i < CHANNELS; i++) atomicAdd(texels + offset + i, weight * gradient[i]);
    });
  }
}

// ----------------------------------------------------------------------------------------------------------- decoder

// The decoder in shared memory, laid out so that all threads read the same four neighbouring numbers at a time.
template <int CHANNELS, int OUTPUTS>
struct Network {
  float *hidden_weight, *output_weight, *hidden_bias, *output_bias;  // [hidden][CHANNELS], [hidden][OUTPUTS]

  __host__ __device__ static int size(const Job& job) { return job.hidden * (CHANNELS + OUTPUTS + 1) + OUTPUTS; }

  __host__ __device__ Network(const Job& job, float* memory)
      : hidden_weight(memory), output_weight(memory + job.hidden * CHANNELS),
        hidden_bias(output_weight + job.hidden * OUTPUTS), output_bias(hidden_bias + job.hidden) {}

  __device__ void load(const Job& job) {
    FOR_EACH(i, job.hidden * CHANNELS)
      hidden_weight[i] = job.hidden_weight[i % CHANNELS * job.hidden + i / CHANNELS];
    FOR_EACH(i, job.hidden * OUTPUTS) {
      const int k = i % OUTPUTS;
      output_weight[i] = k < job.outputs ? job.output_weight[i / OUTPUTS * job.outputs + k] : 0.0f;
    }
    FOR_EACH(i, job.hidden) hidden_bias[i] = job.hidden_bias[i];
    FOR_EACH(i, OUTPUTS) output_bias[i] = i < job.outputs ? job.output_bias[i] : 0.0f;
  }

  __device__ float hidden_unit(const Job& job, const float* features, int unit) const {
    const float* weight = hidden_weight + unit * CHANNELS;
    float total = hidden_bias[unit];
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) total += features[i] * weight[i];
    return job.leaky ? fmaxf(total, total * LEAKY_SLOPE) : softplus(total);
  }

  // Slope of the hidden activation, from its value: softplus' = sigmoid = 1 - exp(-softplus).
  __device__ float hidden_slope(const Job& job, float value) const {
    return job.leaky ? (value > 0 ? 1.0f : LEAKY_SLOPE) : 1.0f - expf(-value);
  }

  // Limited outputs (no colour activation yet).
  __device__ void decode(const Job& job, const float* features, float* outputs) const {
#pragma unroll
    for (int k = 0; k < OUTPUTS; k++) outputs[k] = output_bias[k];
    for (int unit = 0; unit < job.hidden; unit++) {
      const float value = hidden_unit(job, features, unit);
#pragma unroll
      for (int k = 0; k < OUTPUTS; k++) outputs[k] += value * output_weight[unit * OUTPUTS + k];
    }
#pragma unroll
    for (int k = 0; k < OUTPUTS; k++) outputs[k] = limited(outputs[k], job.limit);
  }
};
