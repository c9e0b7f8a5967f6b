// What one call of a kernel works on. `ops/_cuda.py` fills a struct of the same layout, field by field.
#pragma once

#include <cstdint>

constexpr int MAX_LEVELS = 8;

struct Level {
  const void* texels;  // [image][height][width][slice][channel], float or bfloat16
  float* gradient;     // of the same shape
  int64_t image_stride;  // numbers; 0: one for all images
  int32_t height, width;
};

struct Job {
  Level levels[MAX_LEVELS];
  const float *hidden_weight, *hidden_bias, *output_weight, *output_bias;  // as in Decoder
  const float *origins, *directions, *near, *far, *backdrop;               // [image][ray], triples or numbers
  const float *coarse, *fine, *noise;       // [image][row][sample]; noise is null or has a row for every ray
  float *features, *mask, *depth;           // [image][ray]
  float *sample_depths, *sample_noise;      // [image][ray][sample], sorted
  const float *features_gradient, *mask_gradient, *depth_gradient;
  float* weight_gradient;                   // the decoder's numbers in one row
  const float* points;                      // [image][ray], for fields
  int32_t level_count, bfloat16, slices, channels, hidden, outputs, depths[3];
  int32_t leaky, colors, eg3d_axes, eg3d_sampling, disparity;
  int32_t images, rays, coarse_count, fine_count, coarse_rows, fine_rows;
  int32_t rays_a_block;
  float to_unit, gain, limit, crop;
};
