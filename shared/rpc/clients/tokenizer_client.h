// Client of tutti.tokenizer.v1.TokenizerService. All calls are safe to retry, on any tokenizer of
// the same fingerprint.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/clients/await.h"
#include "shared/wire/tokenizer.h"

namespace tutti::rpc {

// Thread-safe. The callbacks come from gRPC's threads, once each, and must not block. Deadlines are
// from now, in µs, and required (> 0).
class TokenizerClient {
 public:
  // `name` stands in front of error messages. Errors: INVALID_ARGUMENT  TLS files
  static absl::StatusOr<std::unique_ptr<TokenizerClient>> Create(
      const std::string& address, std::string name, const ChannelOptions& options = {});
  virtual ~TokenizerClient() = default;

  virtual void Encode(const wire::EncodeInput& input, int64_t deadline_us,
                      std::function<void(absl::StatusOr<wire::EncodeResult>)> done) = 0;
  virtual void Decode(const std::vector<int32_t>& ids, bool skip_special, int64_t deadline_us,
                      std::function<void(absl::StatusOr<std::string>)> done) = 0;
  virtual void GetVocabulary(int64_t deadline_us,
                             std::function<void(absl::StatusOr<wire::Vocabulary>)> done) = 0;
};

}  // namespace tutti::rpc
