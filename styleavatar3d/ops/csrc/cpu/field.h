// The field that planes and decoder define, evaluated at one point per lane, and its gradients.
//
// A "row" of n values is `Lanes row[n]`: value i of LANES points. Features, hidden units and outputs are rows, so the
// decoder is matrix products whose vector axis is the points, free of horizontal sums and of limits on its sizes.
#pragma once

#include <algorithm>
#include <vector>

#include "lanes.h"

constexpr float LEAKY_SLOPE = 0.2f;
constexpr float LEAKY_GAIN = 1.41421356f;
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

// World axes along (width, height, slices) of each plane: one of every pair, or EG3D's with (x, z) twice.
constexpr int PLANE_AXES[2][3][3] = {{{0, 1, 2}, {0, 2, 1}, {1, 2, 0}}, {{0, 1, 2}, {0, 2, 1}, {2, 0, 1}}};

// What all levels of a pyramid share.
struct Planes {
  int slices, channels;
  int depths[3];
  const int (*axes)[3];
  float to_unit;  // 2 / box
  bool bfloat16;
};

struct Level {
  int height, width;
  int64_t size;      // numbers of one image
  bool shared;       // by all images
  const void* data;  // float or bfloat16

  template <class Number>
  const Number* texels(int64_t image) const { return (const Number*)data + (shared ? 0 : image * size); }
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

// The axis that a plane lacks runs over its slices if it has several.
inline Corners find_corners(const Planes& planes, const Level& level, const Lanes point[3]) {
  Corners corners;
  corners.count = 0;
  int first_slice = 0;
  for (int plane = 0; plane < 3; plane++) {
    const int depth = planes.depths[plane], *axes = planes.axes[plane];
    const Neighbours u = neighbours(point[axes[0]] * planes.to_unit, level.width);
    const Neighbours v = neighbours(point[axes[1]] * planes.to_unit, level.height);
    const Neighbours w = neighbours(point[axes[2]] * planes.to_unit, depth);
    for (int row = 0; row < 2; row++)
      for (int column = 0; column < 2; column++) {
        const IntLanes texel = (v.index[row] * level.width + u.index[column]) * planes.slices + first_slice;
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
  typedef uint16_t Halves __attribute__((vector_size(WIDTH * sizeof(uint16_t)), aligned(sizeof(uint16_t))));
  typedef uint32_t Bits __attribute__((vector_size(WIDTH * sizeof(uint32_t))));
};

typedef uint16_t BFloat16;  // the upper half of a float

template <int WIDTH>
inline typename Texel<WIDTH>::Values load(const float* texel) {
  return *(const typename Texel<WIDTH>::Values*)texel;
}

template <int WIDTH>
inline typename Texel<WIDTH>::Values load(const BFloat16* texel) {
  using Halves = typename Texel<WIDTH>::Halves;
  using Bits = typename Texel<WIDTH>::Bits;
  const Halves halves = *(const Halves*)texel;
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  typename Texel<WIDTH>::Values values;
  std::memcpy(&values, &bits, sizeof values);
  return values;
}

typedef float Rows[LANES][MAX_CHANNELS];  // features of one point a row

template <int WIDTH, class Number>
inline void gather(const Number* texels, const Corners& corners, int channels, bool first_level, Rows& rows) {
  using Values = typename Texel<WIDTH>::Values;
  for (int lane = 0; lane < LANES; lane++)
    for (int first = 0; first < channels; first += WIDTH) {
      Values total = {};
      if (!first_level) total = *(const Values*)(rows[lane] + first);
      for (int k = 0; k < corners.count; k++)
        total += load<WIDTH>(texels + corners.offset[k][lane] + first) * corners.weight[k][lane];
      *(Values*)(rows[lane] + first) = total;
    }
}

// The transpose of gather: spreads gradients of features over the texels they came from.
template <int WIDTH>
inline void scatter(const Rows& rows, const Corners& corners, int channels, float* texels) {
  using Values = typename Texel<WIDTH>::Values;
  for (int lane = 0; lane < LANES; lane++)
    for (int first = 0; first < channels; first += WIDTH) {
      const Values gradient = *(const Values*)(rows[lane] + first);
      for (int k = 0; k < corners.count; k++)
        *(Values*)(texels + corners.offset[k][lane] + first) += gradient * corners.weight[k][lane];
    }
}

// ------------------------------------------------------------------------------------------------------------ field

enum Colors { COLORS_NONE, COLORS_SIGMOID, COLORS_LEAKY };

struct FieldShape {
  Planes planes;
  std::vector<Level> levels;
  int hidden, outputs;  // outputs: raw density and features
  bool leaky;
  Colors colors;
  float limit;  // of outputs
  int weight_count() const { return planes.channels * hidden + hidden + hidden * outputs + outputs; }
};

struct DecoderWeights {
  const float *hidden_weight, *hidden_bias, *output_weight, *output_bias;
};

template <class Number>
inline void gather_level(const FieldShape& shape, const Level& level, int64_t image, const Lanes point[3], Rows& rows) {
  const Corners corners = find_corners(shape.planes, level, point);
  const int channels = shape.planes.channels;
  const bool first_level = &level == shape.levels.data();
  const Number* texels = level.texels<Number>(image);
  if (channels % LANES == 0) gather<LANES>(texels, corners, channels, first_level, rows);
  else gather<LANES / 2>(texels, corners, channels, first_level, rows);
}

inline void look_up(const FieldShape& shape, int64_t image, const Lanes point[3], Lanes* features) {
  alignas(64) Rows rows;
  for (const Level& level : shape.levels)
    if (shape.planes.bfloat16) gather_level<BFloat16>(shape, level, image, point, rows);
    else gather_level<float>(shape, level, image, point, rows);
  for (int channel = 0; channel < shape.planes.channels; channel++)
    for (int lane = 0; lane < LANES; lane++) features[channel][lane] = rows[lane][channel];
}

// Adds to the gradient of each level of one image.
inline void spread(const FieldShape& shape, const Lanes* features, const Lanes point[3], float* const* gradients) {
  const int channels = shape.planes.channels;
  alignas(64) Rows rows;
  for (int channel = 0; channel < channels; channel++)
    for (int lane = 0; lane < LANES; lane++) rows[lane][channel] = features[channel][lane];
  for (const Level& level : shape.levels) {
    const Corners corners = find_corners(shape.planes, level, point);
    if (channels % LANES == 0) scatter<LANES>(rows, corners, channels, *gradients++);
    else scatter<LANES / 2>(rows, corners, channels, *gradients++);
  }
}

// Features -> hidden activations and limited outputs (no colour activation yet).
inline void decode(const FieldShape& shape, const DecoderWeights& w, const Lanes* features, Lanes* hidden,
                   Lanes* outputs) {
  affine(features, shape.planes.channels, w.hidden_weight, w.hidden_bias, hidden, shape.hidden);
  for (int i = 0; i < shape.hidden; i++)
    hidden[i] = shape.leaky ? larger(hidden[i], hidden[i] * LEAKY_SLOPE) : softplus(hidden[i]);
  affine(hidden, shape.hidden, w.output_weight, w.output_bias, outputs, shape.outputs);
  for (int i = 0; i < shape.outputs; i++) outputs[i] = limit(outputs[i], -shape.limit, shape.limit);
}

// Slope of the hidden activation, from its value: softplus' = sigmoid = 1 - exp(-softplus).
inline Lanes hidden_slope(const FieldShape& shape, Lanes activation) {
  if (shape.leaky) return activation > 0 ? broadcast(1.0f) : broadcast(LEAKY_SLOPE);
  return 1.0f - exponential(-activation);
}

inline Lanes within_limit(const FieldShape& shape, Lanes output) {
  return (output > -shape.limit) & (output < shape.limit) ? broadcast(1.0f) : Lanes{};
}

inline Lanes color(const FieldShape& shape, Lanes output) {
  if (shape.colors == COLORS_SIGMOID) return sigmoid(output) * 1.002f - 0.001f;
  return shape.colors == COLORS_LEAKY ? larger(output, output * LEAKY_SLOPE) * LEAKY_GAIN : output;
}

// Slope of the colour activation, from its value.
inline Lanes color_slope(const FieldShape& shape, Lanes color) {
  if (shape.colors == COLORS_NONE) return broadcast(1.0f);
  if (shape.colors == COLORS_LEAKY) return color > 0 ? broadcast(LEAKY_GAIN) : broadcast(LEAKY_GAIN * LEAKY_SLOPE);
  const Lanes share = (color + 0.001f) * (1.0f / 1.002f);
  return 1.002f * share * (1.0f - share);
}
