// Real processes of the cluster under a test: a router, tokenizers and targets on unix sockets in a
// folder of their own, ended with the fixture. Nothing is faked.
#pragma once

#include <grpcpp/channel.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::cluster {

// One child process; its stderr goes to <folder>/<name>.log. Ended (SIGTERM, then SIGKILL) when let
// go.
class Child {
 public:
  static absl::StatusOr<std::unique_ptr<Child>> Start(const std::string& name,
                                                      const std::string& folder,
                                                      const std::vector<std::string>& argv);
  ~Child();
  Child(const Child&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& log() const { return log_; }
  bool running();
  // Sends a signal; with SIGKILL it also waits for the end.
  void Signal(int signal);
  // Waits for the end; the exit status, or 128 + signal. -1: not within that time.
  int Wait(int64_t timeout_ms);

 private:
  Child(pid_t pid, std::string log) : pid_(pid), log_(std::move(log)) {}
  pid_t pid_;
  std::string log_;
  int status_ = -1;
};

struct LocalClusterOptions {
  std::string model;  // "": ModelPath()
  int num_targets = 2;
  int num_tokenizers = 1;
  int num_experts = 0;
  int num_drafts = 0;
  std::string draft_model;  // "": DraftModelPath()
  std::vector<std::string> router_flags, target_flags, tokenizer_flags, expert_flags, draft_flags;
  int64_t ready_timeout_ms = 120'000;  // machines that run tests are busy
};

class LocalCluster {
 public:
  // Starts everything and waits until the router can generate with every target.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(LocalClusterOptions options);
  ~LocalCluster();

  const std::string& router_address() const { return router_address_; }
  // The router's listener for workers and operators.
  const std::string& cluster_address() const { return cluster_address_; }
  // Connections of their own to the router: as a client; as a worker or an operator.
  std::shared_ptr<grpc::Channel> Connect() const;
  std::shared_ptr<grpc::Channel> ConnectAsWorker() const;

  Child& router() { return *router_; }
  Child& target(size_t i) { return *targets_[i]; }
  size_t num_targets() const { return targets_.size(); }
  Child& tokenizer(size_t i) { return *tokenizers_[i]; }
  Child& expert(size_t i) { return *experts_[i]; }
  size_t num_experts() const { return experts_.size(); }
  Child& draft(size_t i) { return *drafts_[i]; }
  // Starts one more expert shard; it joins when it is ready. `fault_after_rows` >= 0: one that
  // computes wrong after so many rows.
  absl::Status AddExpert(int64_t fault_after_rows = -1);
  // Starts one more draft, of `model` ("": that of the options).
  absl::Status AddDraft(const std::string& model = "");
  // A new process in the place of one that ended.
  absl::Status RestartTarget(size_t i);
  // Until the router has that many ready targets. Errors: DEADLINE_EXCEEDED with the logs' ends
  absl::Status WaitForTargets(int count, int64_t timeout_ms);
  // Until that many drafts have joined and are ready. Errors: as above
  absl::Status WaitForDrafts(int count, int64_t timeout_ms);
  // The end of every log, for failure messages.
  std::string Logs() const;
  std::string folder() const { return folder_; }

 private:
  explicit LocalCluster(LocalClusterOptions options) : options_(std::move(options)) {}
  absl::Status StartTarget(size_t i);

  LocalClusterOptions options_;
  std::string folder_, router_address_, cluster_address_;
  int starts_ = 0;
  std::unique_ptr<Child> router_;
  std::vector<std::unique_ptr<Child>> targets_, tokenizers_, experts_, drafts_;
};

// TUTTI_MODEL, else models/SmolLM2-135M-Instruct.Q4_1.gguf of the source tree; "" when it is not
// there.
std::string ModelPath();
// A smaller form of that model: TUTTI_DRAFT_MODEL, else the same in Q4_0; ModelPath() when it is
// not there.
std::string DraftModelPath();

}  // namespace tutti::cluster
