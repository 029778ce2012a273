#include "shared/engine/verification.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"

namespace tutti::engine {

void Verification::Start(const sampling::SamplingParams& params, std::span<const int32_t> prompt,
                         int32_t count, uint64_t digest, std::vector<uint64_t> digests) {
  count_ = count;
  num_verified_ = 0;
  want_ = digest;
  wanted_ = std::move(digests);
  digest_ = 0;
  history_ = sampling::TokenHistory(params, prompt);
}

void Verification::Restart() {
  num_verified_ = 0;
  digest_ = 0;
  history_.Truncate(0);
}

absl::Status Verification::Next(const sampling::SamplingParams& params,
                                std::span<const int32_t> eos_ids, int32_t token,
                                std::span<const float> logits, sampling::Scratch* scratch) {
  TUTTI_CHECK(active());
  const int32_t index = num_verified_;
  const int32_t own = sampling::SampleToken(params, history_, eos_ids, logits, scratch);
  digest_ = ExtendDigest(digest_, logits);
  const auto at = static_cast<size_t>(index);
  const bool last = index + 1 == count_;
  const bool known = at < wanted_.size() || last;
  const uint64_t want = at < wanted_.size() ? wanted_[at] : want_;
  const bool agrees = own == token && (!known || digest_ == want) && (!last || digest_ == want_);
  if (!agrees) {
    return WithReason(
        absl::DataLossError(
            own != token
                ? absl::StrFormat("generated[%d] is token %d; computed again it is %d", index,
                                  token, own)
                : absl::StrFormat("the digest after generated[%d] is %016x; computed again it is "
                                  "%016x",
                                  index, known ? want : want_, digest_)),
        kResumeMismatch);
  }
  history_.Append(token);
  ++num_verified_;
  if (last) {  // all of it may be long
    history_ = {};
    wanted_ = {};
  }
  return absl::OkStatus();
}

}  // namespace tutti::engine
