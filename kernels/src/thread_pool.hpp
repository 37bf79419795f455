// Threads for jobs of a few microseconds.
//
// Not OpenMP: torch brings a runtime of its own, a second one would spin on the same cores, and not
// every compiler has one. Here the caller works too and a job ends when its items are done, not
// when every thread has come: on a busy machine a thread that is late costs nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace game_agent {

class ThreadPool {
 public:
  // The process's pool. Never destroyed, so that no thread outlives what it uses.
  static ThreadPool& shared();

  // Calls body(i) for every i in [0, count), the highest first, on up to num_threads() threads. A
  // call made while another one runs is done by its caller alone. `body` must not throw.
  template <typename F>
  void parallel_for(int64_t count, const F& body) {
    run(count, [](const void* context, int64_t i) { (*static_cast<const F*>(context))(i); }, &body);
  }

  int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }

  // The calling thread included; at least 1. Threads start when first needed.
  void set_num_threads(int count);

 private:
  using Body = void (*)(const void* context, int64_t item);

  ThreadPool();
  void run(int64_t count, Body body, const void* context);
  void start_threads();
  void stop_threads();
  void work();
  bool claim_item(int64_t* item);
  bool do_items();
  void publish(int64_t count);
  void keep_off_caller();

  std::mutex caller_;  // held by the one whose job runs
  std::vector<std::thread> threads_;
  int kept_off_ = -1;  // the processor that the threads do not run on
  std::atomic<int> num_threads_;
  std::atomic<bool> stopping_{false};

  // The job: written before `ticket_` is published, stable until all items are done.
  Body body_ = nullptr;
  const void* context_ = nullptr;
  // Job number in the upper 40 bits, items not yet claimed in the lower 24: one compare-and-swap
  // claims an item of just the job that was looked at.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> pending_{0};  // items not yet done

  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
};

}  // namespace game_agent
