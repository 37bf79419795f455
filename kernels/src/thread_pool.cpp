#include "thread_pool.hpp"

#include <algorithm>
#include <chrono>

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
#include <intrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace game_agent {

namespace {

constexpr uint64_t kItemBits = 24;
constexpr uint64_t kItemMask = (uint64_t{1} << kItemBits) - 1;
// How long a thread looks for the next job before it sleeps: more than lies between two tokens of a
// reply, since the first third of a short pass would be over before it is awake.
constexpr auto kSpin = std::chrono::microseconds(300);
constexpr int kPausesPerLook = 16;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
  _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
  __asm__ __volatile__("yield");
#endif
}

// Waits actively until `done` or the time is up; whether it is done.
template <typename F>
bool spin_until(F done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool()
    : num_threads_(std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {}

ThreadPool& ThreadPool::shared() {
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

void ThreadPool::set_num_threads(int count) {
  const std::lock_guard<std::mutex> lock(caller_);
  if (count == num_threads()) return;
  stop_threads();
  num_threads_ = std::max(1, count);
}

void ThreadPool::run(int64_t count, Body body, const void* context) {
  std::unique_lock<std::mutex> lock(caller_, std::try_to_lock);
  const bool alone = count <= 1 || num_threads() == 1 || !lock.owns_lock();
  if (alone || count > static_cast<int64_t>(kItemMask)) {
    for (int64_t i = count - 1; i >= 0; --i) body(context, i);
    return;
  }
  if (threads_.empty()) start_threads();
  body_ = body;
  context_ = context;
  publish(count);
  do_items();
  const auto all_done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  while (!spin_until(all_done)) std::this_thread::yield();
}

void ThreadPool::publish(int64_t count) {
  pending_.store(count, std::memory_order_relaxed);
  const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> kItemBits) + 1;
  // Sequentially consistent, like the sleeper's steps: either it sees this job or we see it asleep.
  ticket_.store((job << kItemBits) | static_cast<uint64_t>(count));
  if (sleepers_.load() > 0) {
    keep_off_caller();
    { const std::lock_guard<std::mutex> lock(sleep_); }
    wake_.notify_all();
  }
}

// Linux puts a thread that is woken where its waker runs, and may leave both there for more than
// ten milliseconds, which is longer than most passes. So the others may go anywhere but there.
void ThreadPool::keep_off_caller() {
#if defined(__linux__)
  const int here = sched_getcpu();
  if (here < 0 || here == kept_off_) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  CPU_CLR(here, &allowed);
  if (CPU_COUNT(&allowed) == 0) return;
  for (std::thread& thread : threads_) {
    pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
  }
  kept_off_ = here;
#endif
}

bool ThreadPool::claim_item(int64_t* item) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while ((ticket & kItemMask) != 0) {
    if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) {
      *item = static_cast<int64_t>(ticket & kItemMask) - 1;
      return true;
    }
  }
  return false;
}

bool ThreadPool::do_items() {
  bool any = false;
  for (int64_t item; claim_item(&item); any = true) {
    body_(context_, item);
    pending_.fetch_sub(1, std::memory_order_acq_rel);
  }
  return any;
}

void ThreadPool::work() {
  const auto called = [this] { return (ticket_.load() & kItemMask) != 0 || stopping_.load(); };
  while (!stopping_.load()) {
    if (do_items() || spin_until(called)) continue;
    std::unique_lock<std::mutex> lock(sleep_);
    ++sleepers_;
    wake_.wait(lock, called);
    --sleepers_;
  }
}

void ThreadPool::start_threads() {
  stopping_ = false;
  for (int i = 1; i < num_threads(); ++i) threads_.emplace_back([this] { work(); });
}

void ThreadPool::stop_threads() {
  {
    const std::lock_guard<std::mutex> lock(sleep_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  kept_off_ = -1;
}

}  // namespace game_agent
