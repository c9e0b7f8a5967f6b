// The field that planes and decoder define, evaluated at one point per lane, and its gradients.
//
// A "row" of n values is `Lanes row[n]`: value i of LANES points. Features, hidden units and outputs are rows, so the
// decoder is matrix products whose vector axis is the points, free of horizontal sums and of limits on its sizes.
#pragma once

#include <algorithm>
#include <vector>

#include "lanes.h"

constexpr float LEAKY_SLOPE = 0.2f;
constexpr float OUTPUT_LIMIT = 30.0f;
constexpr int MAX_CHANNELS = 32;
constexpr int MAX_CORNERS = 24;
constexpr int MAX_FEATURES = 128;

// ---------------------------------------------------------------------------------------------------- decoder layers

template <int TILE>
inline void affine_tile(const Lanes* in, int n_in, const float* weight, int stride, const float* bias, Lanes* out) {
  Lanes total[TILE];
  for (int j = 0; j < TILE; j++) total[j] = broadcast(bias ? bias[j] : 0.0f);
  for (int i = 0; i < n_in; i++)
    for (int j = 0; j < TILE; j++) total[j] += in[i] * weight[i * stride + j];
  for (int j = 0; j < TILE; j++) out[j] = total[j];
}

// out[j] = bias[j] + sum_i in[i] weight[i][j]; no bias if null
inline void affine(const Lanes* in, int n_in, const float* weight, const float* bias, Lanes* out, int n_out) {
  int j = 0;
  for (; j + 8 <= n_out; j += 8) affine_tile<8>(in, n_in, weight + j, n_out, bias ? bias + j : nullptr, out + j);
  for (; j + 4 <= n_out; j += 4) affine_tile<4>(in, n_in, weight + j, n_out, bias ? bias + j : nullptr, out + j);
  for (; j < n_out; j++) affine_tile<1>(in, n_in, weight + j, n_out, bias ? bias + j : nullptr, out + j);
}

template <int TILE_A, int TILE_B>
inline void outer_tile(int rows, const Lanes* a, int n_a, const Lanes* b, int n_b, Lanes* total) {
  Lanes part[TILE_A][TILE_B] = {};
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < TILE_A; i++)
      for (int j = 0; j < TILE_B; j++) part[i][j] += a[row * n_a + i] * b[row * n_b + j];
  for (int i = 0; i < TILE_A; i++)
    for (int j = 0; j < TILE_B; j++) total[i * n_b + j] += part[i][j];
}

// total[i][j] += sum over rows of a[row][i] b[row][j]; n_a is a multiple of 4
inline void add_outer(int rows, const Lanes* a, int n_a, const Lanes* b, int n_b, Lanes* total) {
  for (int i = 0; i < n_a; i += 4) {
    int j = 0;
    for (; j + 4 <= n_b; j += 4) outer_tile<4, 4>(rows, a + i, n_a, b + j, n_b, total + i * n_b + j);
    for (; j < n_b; j++) outer_tile<4, 1>(rows, a + i, n_a, b + j, n_b, total + i * n_b + j);
  }
}

inline void add_columns(int rows, const Lanes* a, int n, Lanes* total) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < n; i++) total[i] += a[row * n + i];
}

// ----------------------------------------------------------------------------------------------------------- planes

struct Planes {
  int height, width, slices, channels;
  int depths[3];
  float to_unit;  // 2 / box
  int64_t size() const { return int64_t(height) * width * slices * channels; }
};

// Offsets and weights of the texels that one point per lane lies between.
struct Corners {
  int count;
  int32_t offset[MAX_CORNERS][LANES];
  float weight[MAX_CORNERS][LANES];
};

// The two texels (or slices) around a coordinate in [-1, 1]; weight 0 outside, index always valid.
struct Neighbours {
  IntLanes index[2];
  Lanes weight[2];
};

inline Neighbours neighbours(Lanes coordinate, int size) {
  const Lanes place = limit((coordinate + 1.0f) * (0.5f * size) - 0.5f, -1.0f, float(size));
  const IntLanes first = __builtin_convertvector(place + 1.0f, IntLanes) - 1;  // floor: the operand is >= 0
  const Lanes share = place - __builtin_convertvector(first, Lanes);
  Neighbours result;
  for (int side = 0; side < 2; side++) {
    const IntLanes index = first + side;
    const IntLanes inside = (index >= 0) & (index < size);
    result.weight[side] = inside ? (side ? share : 1.0f - share) : Lanes{};
    result.index[side] = inside ? index : IntLanes{};
  }
  return result;
}

inline void add_corner(Corners& corners, IntLanes offset, Lanes weight) {
  std::memcpy(corners.offset[corners.count], &offset, sizeof offset);
  std::memcpy(corners.weight[corners.count], &weight, sizeof weight);
  corners.count++;
}

// Planes (x, y), (x, z), (y, z); the axis that a plane lacks runs over its slices if it has several.
inline Corners find_corners(const Planes& planes, const Lanes point[3]) {
  constexpr int AXES[3][3] = {{0, 1, 2}, {0, 2, 1}, {1, 2, 0}};
  Corners corners;
  corners.count = 0;
  int first_slice = 0;
  for (int plane = 0; plane < 3; plane++) {
    const int depth = planes.depths[plane];
    const Neighbours u = neighbours(point[AXES[plane][0]] * planes.to_unit, planes.width);
    const Neighbours v = neighbours(point[AXES[plane][1]] * planes.to_unit, planes.height);
    const Neighbours w = neighbours(point[AXES[plane][2]] * planes.to_unit, depth);
    for (int row = 0; row < 2; row++)
      for (int column = 0; column < 2; column++) {
        const IntLanes texel = (v.index[row] * planes.width + u.index[column]) * planes.slices + first_slice;
        const Lanes weight = v.weight[row] * u.weight[column] * (1.0f / 3);
        if (depth == 1) add_corner(corners, texel * planes.channels, weight);
        else
          for (int side = 0; side < 2; side++)
            add_corner(corners, (texel + w.index[side]) * planes.channels, weight * w.weight[side]);
      }
    first_slice += depth;
  }
  return corners;
}

// WIDTH channels of one texel; may lie at any address.
template <int WIDTH>
struct Texel {
  typedef float Values __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float))));
};

template <int WIDTH>
inline void gather(const float* texels, const Corners& corners, int channels, Lanes* features) {
  using Values = typename Texel<WIDTH>::Values;
  alignas(64) float rows[LANES][MAX_CHANNELS];
  for (int lane = 0; lane < LANES; lane++)
    for (int first = 0; first < channels; first += WIDTH) {
      Values total = {};
      for (int k = 0; k < corners.count; k++)
        total += *(const Values*)(texels + corners.offset[k][lane] + first) * corners.weight[k][lane];
      *(Values*)(rows[lane] + first) = total;
    }
  for (int channel = 0; channel < channels; channel++)
    for (int lane = 0; lane < LANES; lane++) features[channel][lane] = rows[lane][channel];
}

// The transpose of gather: spreads gradients of features over the texels they came from.
template <int WIDTH>
inline void scatter(const Lanes* features, const Corners& corners, int channels, float* texels) {
  using Values = typename Texel<WIDTH>::Values;
  alignas(64) float rows[LANES][MAX_CHANNELS];
  for (int channel = 0; channel < channels; channel++)
    for (int lane = 0; lane < LANES; lane++) rows[lane][channel] = features[channel][lane];
  for (int lane = 0; lane < LANES; lane++)
    for (int first = 0; first < channels; first += WIDTH) {
      const Values gradient = *(const Values*)(rows[lane] + first);
      for (int k = 0; k < corners.count; k++)
        *(Values*)(texels + corners.offset[k][lane] + first) += gradient * corners.weight[k][lane];
    }
}

// ------------------------------------------------------------------------------------------------------------ field

struct FieldShape {
  Planes planes;
  int hidden, outputs;  // outputs: raw density and features
  bool leaky, sigmoid;
  int weight_count() const { return planes.channels * hidden + hidden + hidden * outputs + outputs; }
};

struct DecoderWeights {
  const float *hidden_weight, *hidden_bias, *output_weight, *output_bias;
};

inline void look_up(const FieldShape& shape, const float* texels, const Lanes point[3], Lanes* features) {
  const Corners corners = find_corners(shape.planes, point);
  const int channels = shape.planes.channels;
  if (channels % LANES == 0) gather<LANES>(texels, corners, channels, features);
  else gather<LANES / 2>(texels, corners, channels, features);
}

inline void spread(const FieldShape& shape, const Lanes* features, const Lanes point[3], float* texels) {
  const Corners corners = find_corners(shape.planes, point);
  const int channels = shape.planes.channels;
  if (channels % LANES == 0) scatter<LANES>(features, corners, channels, texels);
  else scatter<LANES / 2>(features, corners, channels, texels);
}

// Features -> hidden activations and limited outputs (no colour activation yet).
inline void decode(const FieldShape& shape, const DecoderWeights& w, const Lanes* features, Lanes* hidden,
                   Lanes* outputs) {
  affine(features, shape.planes.channels, w.hidden_weight, w.hidden_bias, hidden, shape.hidden);
  for (int i = 0; i < shape.hidden; i++)
    hidden[i] = shape.leaky ? larger(hidden[i], hidden[i] * LEAKY_SLOPE) : softplus(hidden[i]);
  affine(hidden, shape.hidden, w.output_weight, w.output_bias, outputs, shape.outputs);
  for (int i = 0; i < shape.outputs; i++) outputs[i] = limit(outputs[i], -OUTPUT_LIMIT, OUTPUT_LIMIT);
}

// Slope of the hidden activation, from its value: softplus' = sigmoid = 1 - exp(-softplus).
inline Lanes hidden_slope(const FieldShape& shape, Lanes activation) {
  if (shape.leaky) return activation > 0 ? broadcast(1.0f) : broadcast(LEAKY_SLOPE);
  return 1.0f - exponential(-activation);
}

inline Lanes within_limit(Lanes output) {
  return (output > -OUTPUT_LIMIT) & (output < OUTPUT_LIMIT) ? broadcast(1.0f) : Lanes{};
}

inline Lanes color(const FieldShape& shape, Lanes output) {
  return shape.sigmoid ? sigmoid(output) * 1.002f - 0.001f : output;
}

inline Lanes color_slope(const FieldShape& shape, Lanes color) {
  if (!shape.sigmoid) return broadcast(1.0f);
  const Lanes share = (color + 0.001f) * (1.0f / 1.002f);
  return 1.002f * share * (1.0f - share);
}
