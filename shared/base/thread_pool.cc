#include "shared/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "shared/base/check.h"
#include "shared/base/cores.h"
#include "shared/base/floating_point.h"
#include "shared/base/relax.h"

namespace tutti {

// The tasks of a loop are cut into a share of neighbours for each thread, so that what a thread
// reads goes on where it was: weights are asked for ahead of their use, across the border of two
// tasks. Who has done his share takes from the others', from its end on.
//
// A share is one 64-bit word: the number of its loop, the first task that nobody has taken yet, and
// the end of those tasks. Taking a task is a compare-and-swap of the whole word, so a thread that
// wakes up late can only take a task of the loop that runs now, and the caller waits for tasks,
// never for threads.
class ThreadPool::Impl {
 public:
  explicit Impl(const Options& options)
      : spin_us_(std::max(0, options.spin_us)),
        moves_(!options.pin && UsableCores() > 1),
        shares_(static_cast<size_t>(std::max(1, options.num_threads))) {
    const int workers = std::max(1, options.num_threads) - 1;
    threads_.reserve(static_cast<size_t>(workers));
    for (int i = 1; i <= workers; ++i) {
      threads_.emplace_back([this, i, pin = options.pin] {
        if (pin) PinThreadTo(i);
        Work(i);
      });
    }
  }

  ~Impl() {
    stop_.store(true);
    Announce();
    for (std::thread& t : threads_) t.join();
    RunPosted();
  }

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t, int)>& body,
                   int max_threads) {
    if (num_tasks <= 0) return;
    if (threads_.empty() || num_tasks == 1 || max_threads <= 1) {
      for (int64_t i = 0; i < num_tasks; ++i) body(i, 0);
      return;
    }
    TUTTI_CHECK(num_tasks <= Share::kMostTasks);
    const int64_t sharers = std::min(max_threads, num_threads());
    body_ = &body;
    sharers_.store(static_cast<int>(sharers), std::memory_order_relaxed);
    unfinished_.store(num_tasks, std::memory_order_relaxed);
    caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
    ++loop_;
    gives_way_.store(false, std::memory_order_relaxed);
    for (int64_t i = 0; i < sharers; ++i) {
      shares_[static_cast<size_t>(i)].left.store(
          Share::Word(loop_, ShareBegin(num_tasks, i, sharers),
                      ShareBegin(num_tasks, i + 1, sharers)),
          std::memory_order_release);
    }
    Announce();
    Run(0);
    const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
    if (Spin(done)) return;
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    for (int64_t seen; (seen = unfinished_.load(std::memory_order_seq_cst)) != 0;)
      unfinished_.wait(seen);
    caller_sleeps_.store(false, std::memory_order_relaxed);
  }

  void GiveWay() { gives_way_.store(true, std::memory_order_relaxed); }

  void Post(std::function<void()> job) {
    if (threads_.empty()) return job();
    {
      std::lock_guard lock(posted_mutex_);
      posted_.push_back(std::move(job));
      has_posted_.store(true, std::memory_order_release);
    }
    Announce();
  }

 private:
  void RunPosted() {
    std::vector<std::function<void()>> jobs;
    {
      std::lock_guard lock(posted_mutex_);
      jobs.swap(posted_);
      has_posted_.store(false, std::memory_order_relaxed);
    }
    for (const auto& job : jobs) job();
  }

  void Announce() {
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    // A worker that goes to sleep counts itself first and then looks at the epoch again (in wait),
    // so either it is counted here or it sees the new epoch.
    if (sleepers_.load(std::memory_order_seq_cst) > 0) epoch_.notify_all();
  }

  struct alignas(64) Share {
    static constexpr int kTaskBits = 24;
    static constexpr int64_t kMostTasks = (int64_t{1} << kTaskBits) - 1;
    static constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;
    static uint64_t Word(uint16_t loop, int64_t first, int64_t end) {
      return uint64_t{loop} << 2 * kTaskBits | static_cast<uint64_t>(first) << kTaskBits |
             static_cast<uint64_t>(end);
    }
    static int64_t First(uint64_t word) {
      return static_cast<int64_t>(word >> kTaskBits & kTaskMask);
    }
    static int64_t End(uint64_t word) { return static_cast<int64_t>(word & kTaskMask); }

    std::atomic<uint64_t> left{0};  // none
  };

  // Runs what is left of a share: its owner from the front, others from the end.
  void Run(Share& share, bool owner, int thread) {
    uint64_t word = share.left.load(std::memory_order_acquire);
    while (Share::First(word) < Share::End(word)) {
      // After the word, so that it is of the word's loop; a thread may come late to another one.
      if (thread >= sharers_.load(std::memory_order_relaxed)) return;
      const uint64_t rest = owner ? word + (uint64_t{1} << Share::kTaskBits) : word - 1;
      if (!share.left.compare_exchange_weak(word, rest, std::memory_order_acq_rel,
                                            std::memory_order_acquire))
        continue;
      // The loop cannot end before this task does, so its fields stay as they are.
      (*body_)(owner ? Share::First(word) : Share::End(word) - 1, thread);
      if (unfinished_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
          caller_sleeps_.load(std::memory_order_seq_cst)) {
        unfinished_.notify_all();
      }
      word = share.left.load(std::memory_order_acquire);
    }
  }

  void Run(int thread) {
    const int sharers = sharers_.load(std::memory_order_relaxed);
    if (thread >= sharers) return;
    Run(shares_[static_cast<size_t>(thread)], true, thread);
    for (int i = 1; i < sharers; ++i)
      Run(shares_[static_cast<size_t>((thread + i) % sharers)], false, thread);
  }

  // True when `done` became true within the spin time.
  template <typename Done>
  bool Spin(const Done& done) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
    }
    if (spin_us_ == 0) return done();
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
    do {
      for (int i = 0; i < 32; ++i) {
        if (done()) return true;
        Relax();
      }
    } while (std::chrono::steady_clock::now() < until);
    return done();
  }

  void Work(int thread) {
    SetStrictFloatingPoint();
    uint32_t seen = 0;
    while (true) {
      const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      const auto enough = [&] { return changed() || gives_way_.load(std::memory_order_relaxed); };
      Spin(enough);
      const bool sleeps = !changed();
      if (sleeps) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        epoch_.wait(seen, std::memory_order_seq_cst);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_acquire)) return;
      if (has_posted_.load(std::memory_order_acquire)) RunPosted();
      Run(thread);
      if (sleeps && moves_) LeaveCallersCore(thread);
    }
  }

  // The kernel wakes a thread where it last ran unless it sees a free core, which it does not look
  // for when all seem to be in use. Then a worker would share the caller's core for ever.
  void LeaveCallersCore(int thread) {
    if (sched_getcpu() != caller_cpu_.load(std::memory_order_relaxed)) return;
    MoveThreadTo(CurrentCore() + thread);
  }

  const int spin_us_;
  const bool moves_;
  std::vector<std::thread> threads_;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  std::vector<Share> shares_;    // of threads
  std::atomic<int> sharers_{0};  // threads of the loop
  std::atomic<int> caller_cpu_{-1};
  uint16_t loop_ = 0;
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> gives_way_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
};

ThreadPool::ThreadPool(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
ThreadPool::~ThreadPool() = default;
int ThreadPool::num_threads() const { return impl_->num_threads(); }
void ThreadPool::ParallelFor(int64_t num_tasks,
                             const std::function<void(int64_t task, int thread)>& body,
                             int max_threads) {
  impl_->ParallelFor(num_tasks, body, max_threads);
}
void ThreadPool::GiveWay() { impl_->GiveWay(); }
void ThreadPool::Post(std::function<void()> job) { impl_->Post(std::move(job)); }

}  // namespace tutti
