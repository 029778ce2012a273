#include "tests/cluster/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "shared/rpc/channel.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cluster {
namespace {

using Clock = std::chrono::steady_clock;

void SleepMs(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

std::string Tail(const std::string& path, size_t bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return all.size() > bytes ? "..." + all.substr(all.size() - bytes) : all;
}

// Runs `fork` on a thread that lasts as long as this process: PR_SET_PDEATHSIG strikes when the
// thread that forked ends, not when its process does.
pid_t OnLastingThread(std::function<pid_t()> fork) {
  struct Forker {
    std::mutex mutex;
    std::condition_variable asked;
    std::deque<std::packaged_task<pid_t()>> tasks;
    [[noreturn]] void Run() {
      std::unique_lock lock(mutex);
      while (true) {
        asked.wait(lock, [this] { return !tasks.empty(); });
        tasks.front()();
        tasks.pop_front();
      }
    }
  };
  static Forker* const forker = [] {
    auto* f = new Forker;  // never deleted: its thread may wait when statics are destroyed
    std::thread([f] { f->Run(); }).detach();
    return f;
  }();
  std::packaged_task<pid_t()> task(std::move(fork));
  std::future<pid_t> pid = task.get_future();
  {
    std::lock_guard lock(forker->mutex);
    forker->tasks.push_back(std::move(task));
  }
  forker->asked.notify_one();
  return pid.get();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Child>> Child::Start(const std::string& name,
                                                    const std::string& folder,
                                                    const std::vector<std::string>& argv) {
  const std::string log = folder + "/" + name + ".log";
  std::vector<char*> args;
  for (const std::string& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  if (::access(argv[0].c_str(), X_OK) != 0) return absl::NotFoundError(argv[0] + " is not built");
  const pid_t parent = ::getpid();
  const pid_t pid = OnLastingThread([&] {
    const pid_t child = ::fork();
    if (child != 0) return child;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that crashes leaves nothing behind
    if (::getppid() != parent) ::_exit(127);
    const int fd = ::open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0644);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execv(args[0], args.data());
    ::_exit(127);
  });
  if (pid < 0) return absl::UnavailableError("fork failed");
  return std::unique_ptr<Child>(new Child(pid, log));
}

Child::~Child() {
  if (!running()) return;
  Signal(SIGTERM);
  if (Wait(10'000) < 0) Signal(SIGKILL);
}

bool Child::running() { return Wait(0) < 0; }

void Child::Signal(int signal) {
  if (status_ >= 0) return;
  ::kill(pid_, signal);
  if (signal == SIGKILL) Wait(10'000);
}

int Child::Wait(int64_t timeout_ms) {
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (status_ < 0) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (Clock::now() >= until) {
      return -1;
    } else {
      SleepMs(5);
    }
  }
  return status_;
}

std::string ModelPath() {
  const char* env = std::getenv("TUTTI_MODEL");
  const std::string path =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

std::string DraftModelPath() {
  const char* env = std::getenv("TUTTI_DRAFT_MODEL");
  const std::string path =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_0.gguf";
  return std::filesystem::exists(path) ? path : ModelPath();
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(LocalClusterOptions options) {
  if (options.model.empty()) options.model = ModelPath();
  auto cluster = std::unique_ptr<LocalCluster>(new LocalCluster(std::move(options)));
  const LocalClusterOptions& o = cluster->options_;
  std::string pattern = (std::filesystem::temp_directory_path() / "tutti-cluster-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return absl::UnavailableError("no temporary folder");
  cluster->folder_ = pattern;
  cluster->router_address_ = "unix:" + pattern + "/router";
  cluster->cluster_address_ = "unix:" + pattern + "/router-cluster";
  std::vector<std::string> argv = {TUTTI_BIN_DIR "/tutti-router",
                                   "--listen",
                                   cluster->router_address_,
                                   "--cluster-listen",
                                   cluster->cluster_address_,
                                   "--log-level",
                                   "debug"};
  argv.insert(argv.end(), o.router_flags.begin(), o.router_flags.end());
  TUTTI_ASSIGN_OR_RETURN(cluster->router_, Child::Start("router", pattern, argv));
  for (int i = 0; i < o.num_tokenizers; ++i) {
    const std::string name = "tokenizer" + std::to_string(i);
    argv = {TUTTI_BIN_DIR "/tutti-tokenizer",
            "--listen",
            "unix:" + pattern + "/" + name,
            "--join",
            cluster->cluster_address_,
            "--model",
            o.model};
    argv.insert(argv.end(), o.tokenizer_flags.begin(), o.tokenizer_flags.end());
    TUTTI_ASSIGN_OR_RETURN(auto child, Child::Start(name, pattern, argv));
    cluster->tokenizers_.push_back(std::move(child));
  }
  for (int i = 0; i < o.num_experts; ++i) TUTTI_RETURN_IF_ERROR(cluster->AddExpert());
  cluster->targets_.resize(static_cast<size_t>(o.num_targets));
  for (size_t i = 0; i < cluster->targets_.size(); ++i)
    TUTTI_RETURN_IF_ERROR(cluster->StartTarget(i));
  for (int i = 0; i < o.num_drafts; ++i) TUTTI_RETURN_IF_ERROR(cluster->AddDraft());
  TUTTI_RETURN_IF_ERROR(cluster->WaitForTargets(o.num_targets, o.ready_timeout_ms));
  TUTTI_RETURN_IF_ERROR(cluster->WaitForDrafts(o.num_drafts, o.ready_timeout_ms));
  return cluster;
}

absl::Status LocalCluster::StartTarget(size_t i) {
  const std::string name = "target" + std::to_string(i);
  std::vector<std::string> argv = {TUTTI_BIN_DIR "/tutti-target",
                                   "--listen",
                                   "unix:" + folder_ + "/" + name + "." + std::to_string(++starts_),
                                   "--join",
                                   cluster_address_,
                                   "--model",
                                   options_.model,
                                   "--threads",
                                   "1"};
  argv.insert(argv.end(), options_.target_flags.begin(), options_.target_flags.end());
  TUTTI_ASSIGN_OR_RETURN(targets_[i], Child::Start(name, folder_, argv));
  return absl::OkStatus();
}

absl::Status LocalCluster::AddExpert(int64_t fault_after_rows) {
  const std::string name = "expert" + std::to_string(experts_.size());
  const bool faulty = fault_after_rows >= 0;
  std::vector<std::string> argv = {
      std::string(TUTTI_BIN_DIR "/tutti-expert") + (faulty ? "-faulty" : ""),
      "--listen",
      "unix:" + folder_ + "/" + name,
      "--join",
      cluster_address_,
      "--model",
      options_.model};
  argv.insert(argv.end(), options_.expert_flags.begin(), options_.expert_flags.end());
  if (faulty) argv.insert(argv.end(), {"--fault-after-rows", std::to_string(fault_after_rows)});
  TUTTI_ASSIGN_OR_RETURN(auto child, Child::Start(name, folder_, argv));
  experts_.push_back(std::move(child));
  return absl::OkStatus();
}

absl::Status LocalCluster::AddDraft(const std::string& model) {
  const std::string name = "draft" + std::to_string(drafts_.size());
  const std::string preset = options_.draft_model.empty() ? DraftModelPath() : options_.draft_model;
  std::vector<std::string> argv = {TUTTI_BIN_DIR "/tutti-draft",
                                   "--listen",
                                   "unix:" + folder_ + "/" + name,
                                   "--join",
                                   cluster_address_,
                                   "--model",
                                   model.empty() ? preset : model,
                                   "--threads",
                                   "1"};
  argv.insert(argv.end(), options_.draft_flags.begin(), options_.draft_flags.end());
  TUTTI_ASSIGN_OR_RETURN(auto child, Child::Start(name, folder_, argv));
  drafts_.push_back(std::move(child));
  return absl::OkStatus();
}

absl::Status LocalCluster::RestartTarget(size_t i) { return StartTarget(i); }

std::shared_ptr<grpc::Channel> LocalCluster::Connect() const {
  rpc::ChannelOptions options;
  options.own_connection = true;
  return *rpc::OpenChannel(router_address_, options);
}

std::shared_ptr<grpc::Channel> LocalCluster::ConnectAsWorker() const {
  rpc::ChannelOptions options;
  options.own_connection = true;
  return *rpc::OpenChannel(cluster_address_, options);
}

absl::Status LocalCluster::WaitForTargets(int count, int64_t timeout_ms) {
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  const auto stub = generation::v1::GenerationService::NewStub(Connect());
  while (Clock::now() < until) {
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, 10'000);
    generation::v1::ListModelsResponse response;
    if (stub->ListModels(&context, {}, &response).ok() && response.models_size() == 1 &&
        response.models(0).ready_decoders() == count && response.models(0).has_chat_template()) {
      return absl::OkStatus();
    }
    SleepMs(20);
  }
  return absl::DeadlineExceededError("the cluster has not " + std::to_string(count) + " targets\n" +
                                     Logs());
}

absl::Status LocalCluster::WaitForDrafts(int count, int64_t timeout_ms) {
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  const auto stub = fleet::v1::FleetService::NewStub(ConnectAsWorker());
  while (Clock::now() < until) {
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, 10'000);
    fleet::v1::GetFleetResponse view;
    if (stub->GetFleet(&context, {}, &view).ok()) {
      const auto ready =
          std::count_if(view.workers().begin(), view.workers().end(), [](const auto& w) {
            return w.kind() == fleet::v1::WORKER_KIND_DRAFT &&
                   w.state() == fleet::v1::WORKER_STATE_READY;
          });
      if (ready == count) return absl::OkStatus();
    }
    SleepMs(20);
  }
  return absl::DeadlineExceededError("the cluster has not " + std::to_string(count) + " drafts\n" +
                                     Logs());
}

std::string LocalCluster::Logs() const {
  std::string out;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (entry.path().extension() == ".log")
      out += "--- " + entry.path().string() + "\n" + Tail(entry.path(), 3000) + "\n";
  }
  return out;
}

LocalCluster::~LocalCluster() {
  for (auto* children : {&targets_, &drafts_, &tokenizers_, &experts_}) {
    for (auto& c : *children) {
      if (c != nullptr) c->Signal(SIGTERM);
      if (c != nullptr) c->Signal(SIGCONT);  // a test may have stopped it
    }
  }
  experts_.clear();
  drafts_.clear();
  targets_.clear();
  tokenizers_.clear();
  router_.reset();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

}  // namespace tutti::cluster
