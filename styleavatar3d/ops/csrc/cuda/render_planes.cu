// Volume rendering of planes on NVIDIA GPUs; `styleavatar3d/ops/render_planes.py` says what it computes.
//
// A shared library without PyTorch in it: `ops/_cuda.py` builds it with nvcc, hands over addresses and reads back a
// message, null if all is well. A block owns a few rays, whose samples stay in shared memory from lookup to pixel.

#include <cuda_runtime.h>

#include "backward.cuh"
#include "forward.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int MOST_RAYS = 8;    // of a block
constexpr int POINTS = 1024;    // of a block

template <class Task>
__global__ void __launch_bounds__(THREADS) run_blocks(Job job) {
  extern __shared__ float memory[];
  Task(job, memory).run(job, blockIdx.x);
}

template <class Task>
const char* launch(const Job& job, int64_t blocks, cudaStream_t stream) {
  const size_t bytes = Task::size(job) * sizeof(float);
  cudaFuncSetAttribute(run_blocks<Task>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  run_blocks<Task><<<unsigned(blocks), THREADS, bytes, stream>>>(job);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// As many rays a block as leave room for a second block.
template <class Task>
const char* launch_rays(Job job, int shared_bytes, cudaStream_t stream) {
  const int room = shared_bytes / sizeof(float);
  for (job.rays_a_block = MOST_RAYS; job.rays_a_block > 1 && Task::size(job) > room / 2;) job.rays_a_block /= 2;
  if (Task::size(job) > room) return "the samples of one ray do not fit into the GPU's shared memory";
  return launch<Task>(job, int64_t(job.images) * ((job.rays + job.rays_a_block - 1) / job.rays_a_block), stream);
}

template <int CHANNELS, int OUTPUTS>
const char* run(const Job& job, int what, int shared_bytes, cudaStream_t stream) {
  if (what == 0) return launch_rays<Forward<CHANNELS, OUTPUTS>>(job, shared_bytes, stream);
  if (what == 1) return launch_rays<Backward<CHANNELS, OUTPUTS>>(job, shared_bytes, stream);
  Job points = job;
  points.rays_a_block = POINTS;
  const int64_t blocks = (int64_t(job.images) * job.rays + POINTS - 1) / POINTS;
  return launch<FieldOfPoints<CHANNELS, OUTPUTS>>(points, blocks, stream);
}

template <int CHANNELS>
const char* run_channels(const Job& job, int what, int shared_bytes, cudaStream_t stream) {
  if (job.outputs <= 4) return run<CHANNELS, 4>(job, what, shared_bytes, stream);
  return run<CHANNELS, 36>(job, what, shared_bytes, stream);
}

}  // namespace

extern "C" int styleavatar3d_job_size() { return sizeof(Job); }

// what: 0 pixels, 1 gradients, 2 field of points
extern "C" const char* styleavatar3d_run(const Job* job, int what, int device, void* stream) {
  int shared_bytes = 0;
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (job->outputs > 36) return "at most 35 features";
  switch (job->channels) {
    case 16: return run_channels<16>(*job, what, shared_bytes, cudaStream_t(stream));
    case 32: return run_channels<32>(*job, what, shared_bytes, cudaStream_t(stream));
  }
  return "channels must be 16 or 32";
}
