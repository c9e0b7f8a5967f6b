// The GPU's renderer on a CPU: its words defined away, its blocks run one after the other, its threads as real threads
// that meet at a barrier. THREADS comes from the command line.

#include <atomic>
#include <barrier>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#define __device__
#define __host__

struct Index {
  int x;
};

static thread_local Index threadIdx;
static const Index blockDim = {THREADS};
static std::barrier everyone(THREADS);

static void __syncthreads() { everyone.arrive_and_wait(); }
static void atomicAdd(float* to, float value) { std::atomic_ref<float>(*to).fetch_add(value); }

#include "backward.cuh"
#include "forward.cuh"

template <class Task>
static void run_blocks(const Job& job, int64_t blocks) {
  for (int64_t block = 0; block < blocks; block++) {
    std::vector<float> memory(Task::size(job), std::numeric_limits<float>::quiet_NaN());  // shared memory starts as noise
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; i++)
      threads.emplace_back([&, i] {
        threadIdx.x = i;
        Task(job, memory.data()).run(job, int(block));
      });
    for (std::thread& thread : threads) thread.join();
  }
}

template <int CHANNELS, int OUTPUTS>
static void run(Job job, int what) {
  job.rays_a_block = what == 2 ? 24 : 3;
  const int64_t items = what == 2 ? int64_t(job.images) * job.rays : job.rays;
  const int64_t blocks = (items + job.rays_a_block - 1) / job.rays_a_block;
  if (what == 0) run_blocks<Forward<CHANNELS, OUTPUTS>>(job, job.images * blocks);
  if (what == 1) run_blocks<Backward<CHANNELS, OUTPUTS>>(job, job.images * blocks);
  if (what == 2) run_blocks<FieldOfPoints<CHANNELS, OUTPUTS>>(job, blocks);
}

extern "C" int styleavatar3d_job_size() { return sizeof(Job); }

extern "C" const char* styleavatar3d_run(const Job* job, int what, int, void*) {
  if (job->channels == 16 && job->outputs <= 4) run<16, 4>(*job, what);
  else if (job->channels == 16) run<16, 36>(*job, what);
  else if (job->channels == 32) run<32, 36>(*job, what);
  else return "channels must be 16 or 32";
  return nullptr;
}
