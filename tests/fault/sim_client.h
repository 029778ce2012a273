// A client of the simulated cluster: asks once, and does not rest until it has its answer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "shared/router/router.h"
#include "tests/fault/sim_world.h"

namespace tutti::fault {

// What one choice must be: computed by an engine of its own, alone, undisturbed.
struct Expected {
  std::vector<router::Token> tokens;
  std::string text;
  router::FinishReason reason = router::FinishReason::kNone;
};

// A router's message, by value.
struct ClientMessage {
  enum class Kind { kStarted, kDelta, kFinished, kEnd } kind = Kind::kEnd;
  uint32_t index = 0, offset = 0, output_tokens = 0;
  uint64_t seed = 0, digest = 0;
  std::vector<router::Token> tokens;
  std::string text, resume_token;
  router::FinishReason reason = router::FinishReason::kNone;
  absl::Status status;
};
ClientMessage CopyMessage(const router::Message& m);

// One stream between a client and a router.
struct ClientStream {
  bool open = true;
  int choice = -1;  // -1: Generate
};

// How a client reaches the cluster.
class Cluster {
 public:
  virtual ~Cluster() = default;
  virtual int num_routers() const = 0;
  virtual void Generate(int router, class Client* client, std::shared_ptr<ClientStream> stream,
                        router::RequestSpec spec) = 0;
  virtual void Resume(int router, class Client* client, std::shared_ptr<ClientStream> stream,
                      const std::string& request_id, const std::string& resume_token,
                      uint32_t index, std::optional<uint32_t> after) = 0;
  virtual void Abort(int router, const std::string& request_id,
                     const std::string& resume_token) = 0;
  virtual void Disconnect(std::shared_ptr<ClientStream> stream) = 0;
};

struct ClientPlan {
  router::RequestSpec spec;  // with seed
  std::vector<Expected> expected;
  int64_t start_us = 0;
  int64_t leave_after_us = -1;  // goes away for good
  int64_t abort_after_us = -1;
  int64_t drop_after_us = -1;  // loses its connection and resumes
};

class Client {
 public:
  Client(World* world, Cluster* cluster, std::string name, ClientPlan plan);

  void Start();
  // A message on one of its streams; the stream's end without End is OnBroken.
  void OnMessage(const std::shared_ptr<ClientStream>& stream, ClientMessage message);
  void OnBroken(const std::shared_ptr<ClientStream>& stream);

  bool done() const { return done_; }
  bool gone() const { return gone_; }
  bool cancelled() const { return cancelled_; }
  int resumes() const { return resumes_; }
  int from_scratch() const { return from_scratch_; }
  int64_t tokens() const;
  std::string Describe() const;
  const std::string& request_id() const { return request_id_; }
  const ClientPlan& plan() const { return plan_; }

 private:
  struct Choice {
    size_t tokens = 0;
    std::string text;
    bool tail = false, finished = false;
    std::shared_ptr<ClientStream> stream;
  };
  void Generate();
  void ResumeAll();
  void ResumeChoice(size_t index);
  void Later(std::function<void()> what);
  void OnDelta(const ClientMessage& m);
  void OnFinished(const ClientMessage& m);
  void OnEnd(const std::shared_ptr<ClientStream>& stream, const absl::Status& status);
  void Retry(const std::shared_ptr<ClientStream>& stream, const absl::Status& status);
  void DropConnections();
  bool AllFinished() const;
  std::string DescribePlan() const;
  void Fail(const std::string& what);

  World* const world_;
  Cluster* const cluster_;
  std::string name_;
  ClientPlan plan_;
  std::string request_id_, resume_token_;  // the token comes with the first message
  int attempt_ = 0, resumes_ = 0, from_scratch_ = 0;
  int64_t epoch_ = 0;  // only the newest plan for later counts
  bool started_ = false, aborted_ = false, cancelled_ = false, done_ = false, gone_ = false;
  std::shared_ptr<ClientStream> all_;  // of Generate
  std::vector<Choice> choices_;
};

}  // namespace tutti::fault
