// Client of tutti.decoder.v1.DecoderService (targets and drafts).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "shared/base/status.h"
#include "shared/rpc/channel.h"
#include "shared/wire/decoder.h"

namespace tutti::rpc {

// What comes back on a stream. Called from gRPC's threads: one call at a time, in order, nothing
// after OnClosed, which always comes, once. Must not block.
class DecodeListener {
 public:
  virtual ~DecodeListener() = default;
  virtual void OnTokens(wire::DecodedTokens tokens) = 0;
  virtual void OnFinished(wire::DecodeFinished finished) = 0;
  // OK only after OnFinished; UNAVAILABLE when the decoder died or drains (open elsewhere with what
  // was received so far).
  virtual void OnClosed(absl::Status status) = 0;
};

// An open stream. Thread-safe. Letting go of it does not cancel; Cancel does, and OnClosed still
// comes (CANCELLED, unless the end was faster).
class DecodeStream {
 public:
  virtual ~DecodeStream() = default;
  virtual void Hint(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) = 0;
  virtual void Confirm(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) = 0;
  virtual void Cancel() = 0;
};

// Thread-safe. One per decoder; streams share its channel and may outlive it.
class DecoderClient {
 public:
  // `name` stands in front of error messages ("target[1]").
  // Errors: INVALID_ARGUMENT  TLS files
  static absl::StatusOr<std::unique_ptr<DecoderClient>> Create(const std::string& address,
                                                               std::string name,
                                                               const ChannelOptions& options = {});
  virtual ~DecoderClient() = default;

  // Opens at once and never blocks; problems come as OnClosed. `deadline_us` from now; 0: none.
  // `vocab_size` bounds the ids that are taken from the peer. The listener is held until OnClosed.
  virtual std::shared_ptr<DecodeStream> Open(const wire::DecodeOpen& open, int vocab_size,
                                             int64_t deadline_us,
                                             std::shared_ptr<DecodeListener> listener) = 0;

  virtual void GetModel(int64_t deadline_us,
                        std::function<void(absl::StatusOr<wire::DecoderInfo>)> done) = 0;
};

}  // namespace tutti::rpc
