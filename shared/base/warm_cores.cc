#include "shared/base/warm_cores.h"

#include <sched.h>

#include <algorithm>
#include <thread>

#include "shared/base/clock.h"
#include "shared/base/cores.h"
#include "shared/base/relax.h"

namespace tutti {
WarmCores::WarmCores(int num_cores) {
  const int n = std::min(num_cores, UsableCores());
  threads_.reserve(static_cast<size_t>(std::max(0, n)));
  for (int i = 0; i < n; ++i) threads_.emplace_back([this, i] { Work(i); });
}

WarmCores::~WarmCores() {
  stop_ = true;
  until_us_ = 0;
  ++epoch_;
  epoch_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void WarmCores::KeepFor(int64_t us) {
  until_us_ = SteadyNowUs() + us;
  if (num_awake_ == num_threads_) return;
  ++epoch_;
  epoch_.notify_all();
}

// A thread counts itself as asleep before it looks at the time again, so that KeepFor either sees
// it or is seen by it.
void WarmCores::Work(int core) {
  PinThreadTo(core);
  const sched_param param{};
  if (sched_setscheduler(0, SCHED_IDLE, &param) != 0) return;
  ++num_threads_;
  while (!stop_) {
    const uint32_t seen = epoch_;
    ++num_awake_;
    while (SteadyNowUs() < until_us_) {
      for (int i = 0; i < 32; ++i) Relax();
    }
    --num_awake_;
    if (SteadyNowUs() >= until_us_ && !stop_) epoch_.wait(seen);
  }
}

}  // namespace tutti
