// An expert shard as one object. main() and tests start it.
#pragma once

#include <memory>

#include "services/expert/options.h"
#include "shared/rpc/worker.h"

namespace tutti::expert {

class Expert {
 public:
  // See rpc::Worker::Start.
  static absl::StatusOr<std::unique_ptr<Expert>> Start(const ExpertOptions& options);
  ~Expert();
  rpc::Worker& worker();

 private:
  struct Impl;
  explicit Expert(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti::expert
