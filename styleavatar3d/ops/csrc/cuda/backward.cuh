// Gradients of pixels -> gradients of decoder and planes, from samples that are recomputed at their saved depths.
#pragma once

#include "rays.cuh"

constexpr int CHUNK = 64;  // samples whose hidden units lie in shared memory together

template <int CHANNELS, int OUTPUTS>
struct Backward {
  Network<CHANNELS, OUTPUTS> network, total;  // weights, and their gradients
  float *rows, *depth, *raw, *kept, *weight, *before, *share;  // of samples; rows: outputs, then their gradients
  float *features, *hidden, *hidden_gradient;                  // of a chunk

  __host__ __device__ static int size(const Job& job) {
    const int samples = job.rays_a_block * (job.coarse_count + job.fine_count);
    return 2 * Network<CHANNELS, OUTPUTS>::size(job) + samples * (job.outputs + 6) +
           CHUNK * (CHANNELS + 2 * job.hidden);
  }

  __device__ Backward(const Job& job, float* memory) : network(job, memory), total(job, memory + network.size(job)) {
    const int samples = job.rays_a_block * (job.coarse_count + job.fine_count);
    rows = memory + 2 * network.size(job);
    depth = rows + samples * job.outputs;
    raw = depth + samples;
    kept = raw + samples;
    weight = kept + samples;
    before = weight + samples;
    share = before + samples;
    features = share + samples;
    hidden = features + CHUNK * CHANNELS;
    hidden_gradient = hidden + CHUNK * job.hidden;
  }

  __device__ void recompute(const Job& job, int64_t image, int64_t first_ray, int rays) {
    const int all = job.coarse_count + job.fine_count;
    FOR_EACH(item, rays * all) {
      const int64_t ray = first_ray + item / all;
      float point[3], looked_up[CHANNELS], result[OUTPUTS];
      for (int k = 0; k < OUTPUTS; k++) result[k] = 0.0f;
      depth[item] = job.sample_depths[first_ray * all + item];
      point_at(job, ray, depth[item], point);
      if (!misses(job, ray)) {
        look_up<CHANNELS>(job, image, point, looked_up);
        network.decode(job, looked_up, result);
      }
      const float noise = job.noise ? job.sample_noise[first_ray * all + item] : 0.0f;
      raw[item] = cropped(job, point) ? CROPPED : result[0] + noise;
      kept[item] = cropped(job, point) ? 0.0f : within_limit(result[0], job.limit);
#pragma unroll
      for (int k = 0; k < OUTPUTS; k++)
        if (k < job.outputs) rows[item * job.outputs + k] = result[k];
    }
  }

  // With weight w_i = T_i - T_(i+1), T falling by exp(-optical depth), the slope for interval i's optical depth is
  // T_(i+1) dw_i - sum_(j > i) w_j dw_j.
  __device__ void of_densities(const Job& job, int64_t ray, int first) {
    const int all = job.coarse_count + job.fine_count;
    const float of_mask = job.mask_gradient[ray], of_depth = job.depth_gradient[ray], backdrop = job.backdrop[ray];
    float behind = 0.0f;
    for (int i = first; i < first + all; i++) rows[i * job.outputs] = 0.0f;
    for (int i = first + all - 2; i >= first; i--) {
      const float middle = (depth[i] + depth[i + 1]) * 0.5f;
      const float of_weight = (share[i] + share[i + 1]) * 0.5f + of_mask + of_depth * (middle - backdrop);
      const float of_optical_depth = before[i + 1] * of_weight - behind;
      behind += weight[i] * of_weight;
      const float slope = sigmoid((raw[i] + raw[i + 1]) * 0.5f - 1.0f);
      const float half = of_optical_depth * slope * (depth[i + 1] - depth[i]) * (0.5f * job.gain);
      rows[i * job.outputs] += half;
      rows[(i + 1) * job.outputs] += half;
    }
    for (int i = first; i < first + all; i++) rows[i * job.outputs] *= kept[i];
  }

  // Turns rows from the decoder's limited outputs into their gradients.
  __device__ void of_outputs(const Job& job, int64_t first_ray, int rays) {
    const int all = job.coarse_count + job.fine_count, features = job.outputs - 1;
    FOR_EACH(own, rays)
      trace(all, depth + own * all, raw + own * all, job.gain, weight + own * all, before + own * all);
    __syncthreads();
    FOR_EACH(item, rays * all) {
      const float* of_pixel = job.features_gradient + (first_ray + item / all) * features;
      const float counts = of_sample(weight + item / all * all, item % all);
      float *row = rows + item * job.outputs + 1, sum = 0.0f;
      for (int k = 0; k < features; k++) {
        const float shown = color(job, row[k]);
        sum += of_pixel[k] * shown;
        row[k] = of_pixel[k] * counts * color_slope(job, shown) * within_limit(row[k], job.limit);
      }
      share[item] = sum;
    }
    __syncthreads();
    FOR_EACH(own, rays) of_densities(job, first_ray + own, own * all);
  }

  // Hidden units and gradients of a chunk of samples; its share of the planes' gradients.
  __device__ void of_planes(const Job& job, int64_t image, int64_t first_ray, int first, int count) {
    const int all = job.coarse_count + job.fine_count;
    FOR_EACH(item, count) {
      const int64_t ray = first_ray + (first + item) / all;
      const float* row = rows + (first + item) * job.outputs;
      float point[3], looked_up[CHANNELS], gradient[CHANNELS];
      point_at(job, ray, depth[first + item], point);
      look_up<CHANNELS>(job, image, point, looked_up);
#pragma unroll
      for (int i = 0; i < CHANNELS; i++) {
        features[item * CHANNELS + i] = looked_up[i];
        gradient[i] = 0.0f;
      }
      for (int unit = 0; unit < job.hidden; unit++) {
        const float value = network.hidden_unit(job, looked_up, unit);
        float slope = 0.0f;
        for (int k = 0; k < job.outputs; k++) slope += row[k] * network.output_weight[unit * OUTPUTS + k];
        slope *= network.hidden_slope(job, value);
        hidden[item * job.hidden + unit] = value;
        hidden_gradient[item * job.hidden + unit] = slope;
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) gradient[i] += slope * network.hidden_weight[unit * CHANNELS + i];
      }
      if (!misses(job, ray)) spread<CHANNELS>(job, image, point, gradient);
    }
  }

  // Each weight belongs to one thread, so nothing is added to it at once.
  __device__ void of_weights(const Job& job, int first, int count) {
    const float* of_outputs = rows + first * job.outputs;
    FOR_EACH(w, job.hidden * CHANNELS)
      for (int i = 0; i < count; i++)
        total.hidden_weight[w] += hidden_gradient[i * job.hidden + w / CHANNELS] * features[i * CHANNELS + w % CHANNELS];
    FOR_EACH(w, job.hidden * job.outputs) {
      const int unit = w / job.outputs, k = w % job.outputs;
      for (int i = 0; i < count; i++)
        total.output_weight[unit * OUTPUTS + k] += hidden[i * job.hidden + unit] * of_outputs[i * job.outputs + k];
    }
    FOR_EACH(unit, job.hidden)
      for (int i = 0; i < count; i++) total.hidden_bias[unit] += hidden_gradient[i * job.hidden + unit];
    FOR_EACH(k, job.outputs)
      for (int i = 0; i < count; i++) total.output_bias[k] += of_outputs[i * job.outputs + k];
  }

  __device__ void add_to_result(const Job& job) {
    float* result = job.weight_gradient;
    FOR_EACH(w, job.hidden * CHANNELS) atomicAdd(result + w % CHANNELS * job.hidden + w / CHANNELS, total.hidden_weight[w]);
    result += job.hidden * CHANNELS;
    FOR_EACH(unit, job.hidden) atomicAdd(result + unit, total.hidden_bias[unit]);
    result += job.hidden;
    FOR_EACH(w, job.hidden * job.outputs)
      atomicAdd(result + w, total.output_weight[w / job.outputs * OUTPUTS + w % job.outputs]);
    result += job.hidden * job.outputs;
    FOR_EACH(k, job.outputs) atomicAdd(result + k, total.output_bias[k]);
  }

  __device__ void run(const Job& job, int block) {
    const int blocks_an_image = (job.rays + job.rays_a_block - 1) / job.rays_a_block;
    const int64_t image = block / blocks_an_image;
    const int first = block % blocks_an_image * job.rays_a_block, left = job.rays - first;
    const int rays = left < job.rays_a_block ? left : job.rays_a_block;
    const int64_t first_ray = image * job.rays + first;
    const int samples = rays * (job.coarse_count + job.fine_count);
    network.load(job);
    FOR_EACH(i, network.size(job)) total.hidden_weight[i] = 0.0f;
    __syncthreads();
    recompute(job, image, first_ray, rays);
    __syncthreads();
    of_outputs(job, first_ray, rays);
    __syncthreads();
    for (int chunk = 0; chunk < samples; chunk += CHUNK) {
      const int count = samples - chunk < CHUNK ? samples - chunk : CHUNK;
      of_planes(job, image, first_ray, chunk, count);
      __syncthreads();
      of_weights(job, chunk, count);
      __syncthreads();
    }
    add_to_result(job);
  }
};
