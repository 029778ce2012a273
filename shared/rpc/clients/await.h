// Waiting for a callback, for callers that may block.
#pragma once

#include <functional>
#include <future>
#include <memory>

#include "shared/base/status.h"

namespace tutti::rpc {

// Await<wire::Vocabulary>([&](auto done) { client.GetVocabulary(us, done); }). Not from a callback:
// that would wait for the thread it runs on.
template <typename T>
absl::StatusOr<T> Await(const std::function<void(std::function<void(absl::StatusOr<T>)>)>& start) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<T>>>();
  auto future = promise->get_future();
  start([promise](absl::StatusOr<T> result) { promise->set_value(std::move(result)); });
  return future.get();
}

}  // namespace tutti::rpc
