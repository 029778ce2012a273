// A virtual clock, a queue of what is to happen, and the one source of randomness of a simulation.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <vector>

namespace tutti::fault {

// Determinism: exact: one seed, one history.
class World {
 public:
  World(uint64_t seed, bool trace) : state_(seed), trace_(trace) {
    state_ = Draw() ^ (seed << 32);  // neighbouring seeds must not walk the same sequence, shifted
  }

  int64_t now_us() const { return now_us_; }

  // Random numbers, drawn in the order of events.
  uint64_t Draw() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  int64_t Draw(int64_t low, int64_t high) {  // [low, high]
    return low + static_cast<int64_t>(Draw() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int percent) { return Draw(0, 99) < percent; }

  void At(int64_t time_us, std::function<void()> what) {
    queue_.push({time_us < now_us_ ? now_us_ : time_us, ++sequence_, std::move(what)});
  }
  void After(int64_t delay_us, std::function<void()> what) {
    At(now_us_ + delay_us, std::move(what));
  }

  // A message over a link: in order behind the earlier ones of the same link, as a stream has it.
  void Send(uint64_t link, int64_t delay_us, std::function<void()> what) {
    int64_t& last = links_[link];
    last = std::max(last, now_us_ + delay_us);
    At(last, std::move(what));
  }

  // Runs until `done` says so, nothing is left, or the clock passes `until_us`. False: not done.
  bool RunUntil(int64_t until_us, const std::function<bool()>& done) {
    while (!done()) {
      if (queue_.empty() || queue_.top().time_us > until_us || failed()) return false;
      auto what = std::move(const_cast<Event&>(queue_.top()).what);
      now_us_ = queue_.top().time_us;
      queue_.pop();
      ++events_;
      what();
    }
    return !failed();
  }

  // The first broken promise ends the simulation.
  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = "at " + std::to_string(now_us_) + " us: " + what;
    Trace("FAILURE: " + what);
  }
  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }

  void Trace(const std::string& line) {
    if (trace_)
      std::fprintf(stderr, "%10lld us  %s\n", static_cast<long long>(now_us_), line.c_str());
  }
  bool tracing() const { return trace_; }
  int64_t events() const { return events_; }

 private:
  struct Event {
    int64_t time_us;
    uint64_t sequence;  // equal times: in the order they were asked for
    std::function<void()> what;
    bool operator<(const Event& o) const {
      return time_us != o.time_us ? time_us > o.time_us : sequence > o.sequence;
    }
  };
  std::priority_queue<Event> queue_;
  std::map<uint64_t, int64_t> links_;
  int64_t now_us_ = 0, events_ = 0;
  uint64_t sequence_ = 0, state_;
  bool trace_;
  std::string failure_;
};

}  // namespace tutti::fault
