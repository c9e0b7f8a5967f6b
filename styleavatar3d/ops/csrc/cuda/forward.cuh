// A few rays a block -> pixels: look, look closer where the light is, composite.
#pragma once

#include "rays.cuh"

template <int CHANNELS, int OUTPUTS>
struct Forward {
  Network<CHANNELS, OUTPUTS> network;
  float *outputs, *depth, *sorted_depth, *sorted_raw, *sorted_noise, *weight, *before, *cdf;
  int* place;

  __host__ __device__ static int size(const Job& job) {
    const int samples = job.rays_a_block * (job.coarse_count + job.fine_count);
    return Network<CHANNELS, OUTPUTS>::size(job) + samples * (job.outputs + 8);
  }

  __device__ Forward(const Job& job, float* memory) : network(job, memory) {
    const int samples = job.rays_a_block * (job.coarse_count + job.fine_count);
    outputs = memory + network.size(job);
    depth = outputs + samples * job.outputs;
    sorted_depth = depth + samples;
    sorted_raw = sorted_depth + samples;
    sorted_noise = sorted_raw + samples;
    weight = sorted_noise + samples;
    before = weight + samples;
    cdf = before + samples;
    place = (int*)(cdf + samples);
  }

  // Outputs of samples first .. last - 1 of each ray, at depths that are known.
  __device__ void evaluate(const Job& job, int64_t image, int first_ray, int rays, int first, int last) {
    const int all = job.coarse_count + job.fine_count;
    FOR_EACH(item, rays * (last - first)) {
      const int own = item / (last - first), i = first + item % (last - first), row = own * all + i;
      const int64_t ray = image * job.rays + first_ray + own;
      float point[3], features[CHANNELS], result[OUTPUTS];
      for (int k = 0; k < OUTPUTS; k++) result[k] = 0.0f;
      if (!misses(job, ray)) {
        point_at(job, ray, depth[row], point);
        look_up<CHANNELS>(job, image, point, features);
        network.decode(job, features, result);
        if (job.noise) result[0] += job.noise[ray * all + i];
        if (cropped(job, point)) result[0] = CROPPED;
      }
#pragma unroll
      for (int k = 0; k < OUTPUTS; k++)
        if (k < job.outputs) outputs[row * job.outputs + k] = result[k];
    }
  }

  __device__ void look(const Job& job, int64_t image, int first_ray, int rays) {
    const int coarse = job.coarse_count, fine = job.fine_count, all = coarse + fine;
    FOR_EACH(item, rays * coarse)
      depth[item / coarse * all + item % coarse] = coarse_depth(job, image, first_ray + item / coarse, item % coarse);
    __syncthreads();
    evaluate(job, image, first_ray, rays, 0, coarse);
    __syncthreads();
    if (!fine) return;
    const Distribution distribution(job);
    FOR_EACH(own, rays) {
      const int first = own * all;
      for (int i = 0; i < coarse; i++) sorted_raw[first + i] = outputs[(first + i) * job.outputs];
      trace(coarse, depth + first, sorted_raw + first, job.gain, weight + first, before + first);
      distribution.accumulate(weight + first, cdf + first);
    }
    __syncthreads();
    FOR_EACH(item, rays * fine) {
      const int own = item / fine, i = item % fine, first = own * all;
      const float value = of_row(job.fine, job.fine_rows, fine, image, first_ray + own, i);
      const float quantile = job.eg3d_sampling ? value : (value + i) * (1.0f / fine);
      depth[first + coarse + i] = distribution.draw(depth + first, cdf + first, quantile);
    }
    __syncthreads();
    evaluate(job, image, first_ray, rays, coarse, all);
    __syncthreads();
  }

  __device__ void sort(const Job& job, int64_t image, int first_ray, int rays) {
    const int all = job.coarse_count + job.fine_count;
    FOR_EACH(item, rays * all) {
      const int own = item / all, i = item % all, first = own * all;
      const int to = first + rank_of(i, job.coarse_count, all, depth + first);
      place[item] = to;
      sorted_depth[to] = depth[item];
      sorted_raw[to] = outputs[item * job.outputs];
      if (job.noise) sorted_noise[to] = job.noise[(image * job.rays + first_ray + own) * all + i];
    }
    __syncthreads();
    FOR_EACH(item, rays * all) {
      const int64_t sample = (image * job.rays + first_ray) * all + item;
      job.sample_depths[sample] = sorted_depth[item];
      if (job.noise) job.sample_noise[sample] = sorted_noise[item];
    }
  }

  __device__ void composite(const Job& job, int64_t image, int first_ray, int rays) {
    const int all = job.coarse_count + job.fine_count, features = job.outputs - 1;
    FOR_EACH(own, rays) {
      const int first = own * all;
      const int64_t ray = image * job.rays + first_ray + own;
      trace(all, sorted_depth + first, sorted_raw + first, job.gain, weight + first, before + first);
      float total = 0.0f;
      for (int i = first; i + 1 < first + all; i++) total += weight[i] * (sorted_depth[i] + sorted_depth[i + 1]) * 0.5f;
      const float behind = before[first + all - 1];
      job.mask[ray] = 1.0f - behind;
      job.depth[ray] = total + behind * job.backdrop[ray];
    }
    __syncthreads();
    FOR_EACH(item, rays * features) {
      const int own = item / features, k = item % features, first = own * all;
      float total = 0.0f;
      for (int i = first; i < first + all; i++)
        total += of_sample(weight + first, place[i] - first) * color(job, outputs[i * job.outputs + 1 + k]);
      job.features[(image * job.rays + first_ray + own) * features + k] = total;
    }
  }

  __device__ void run(const Job& job, int block) {
    const int blocks_an_image = (job.rays + job.rays_a_block - 1) / job.rays_a_block;
    const int64_t image = block / blocks_an_image;
    const int first_ray = block % blocks_an_image * job.rays_a_block;
    const int left = job.rays - first_ray, rays = left < job.rays_a_block ? left : job.rays_a_block;
    network.load(job);
    __syncthreads();
    look(job, image, first_ray, rays);
    sort(job, image, first_ray, rays);
    __syncthreads();
    composite(job, image, first_ray, rays);
  }
};

// Features and raw density of points; one thread a point.
template <int CHANNELS, int OUTPUTS>
struct FieldOfPoints {
  Network<CHANNELS, OUTPUTS> network;

  __host__ __device__ static int size(const Job& job) { return Network<CHANNELS, OUTPUTS>::size(job); }

  __device__ FieldOfPoints(const Job& job, float* memory) : network(job, memory) {}

  __device__ void run(const Job& job, int block) {
    const int64_t count = int64_t(job.images) * job.rays, first = int64_t(block) * job.rays_a_block;
    const int64_t left = count - first;
    network.load(job);
    __syncthreads();
    FOR_EACH(item, int(left < job.rays_a_block ? left : job.rays_a_block)) {
      const int64_t point = first + item;
      float features[CHANNELS], outputs[OUTPUTS];
      look_up<CHANNELS>(job, point / job.rays, job.points + point * 3, features);
      network.decode(job, features, outputs);
      job.depth[point] = outputs[0];
#pragma unroll
      for (int k = 1; k < OUTPUTS; k++)
        if (k < job.outputs) job.features[point * (job.outputs - 1) + k - 1] = color(job, outputs[k]);
    }
  }
};
