// Decides at which steps the tokens of running streams go out.
//
// A message costs the target, the router and the client together about as much processor time as a
// small model needs for a tenth of a token, whatever it carries. With many streams, tokens
// therefore wait for company: the streams together send at most `messages_per_s`, and no token is
// held for longer than kHoldUsMax and one step. One stream alone is never held; nor are first
// tokens, ends, and the tokens of a step that also prefilled (the next one may be long).
//
// Thread safety: none. Determinism: free; what a stream says does not depend on it, only when.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tutti::target {

class EmissionPacer {
 public:
  static constexpr int64_t kHoldUsMax = 75000;  // a reader takes anything below 100 ms for at once

  // 0: no limit, every step is due.
  explicit EmissionPacer(int messages_per_s) : messages_per_s_(messages_per_s) {}

  // Of a step that ended at `now_us` with `num_streams` live: do its tokens, and those held before
  // it, go out now?
  bool Due(int64_t now_us, int64_t num_streams, bool prefilled) {
    if (messages_per_s_ > 0 && num_streams > 1 && !prefilled) {
      const int64_t interval_us =
          std::min((num_streams - 1) * 1000000 / messages_per_s_, kHoldUsMax);
      if (now_us - last_us_ < interval_us) return false;
    }
    last_us_ = now_us;
    return true;
  }

 private:
  const int messages_per_s_;
  int64_t last_us_ = INT64_MIN / 2;
};

}  // namespace tutti::target
