#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "shared/model/load.h"
#include "tools/cli/commands.h"
#include "tools/cli/private_files.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/supervisor.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

namespace fs = std::filesystem;

std::string ReadyText(const ClusterAddresses& a, const ClusterOptions& options, double seconds) {
  const char* scheme = options.tls_cert.empty() ? "http://" : "https://";
  char time[32];
  std::snprintf(time, sizeof(time), "%.1f", seconds);
  return absl::StrCat("ready after ", time, " s\n", "  web page     ", scheme, a.http, "/\n",
                      "  OpenAI API   ", scheme, a.http, "/v1\n", "  gRPC         ", a.grpc, "\n");
}

absl::Status RunInForeground(const ClusterOptions& options) {
  const int64_t started = NowUs();
  const auto say = [](const std::string& line) {
    std::fprintf(stderr, "tutti up: %s\n", line.c_str());
  };
  TUTTI_ASSIGN_OR_RETURN(const auto supervisor, Supervisor::Create(options, say));
  TUTTI_RETURN_IF_ERROR(supervisor->StartAll());
  std::printf(
      "%s  Ctrl-C stops the cluster\n",
      ReadyText(supervisor->addresses(), options, static_cast<double>(NowUs() - started) / 1e6)
          .c_str());
  std::fflush(stdout);
  return supervisor->RunUntilSignal();
}

// The background supervisor tells its parent how the start went: one byte, then text.
constexpr char kReady = 'R', kFailed = 'F';

void WriteAll(int fd, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

int RunInBackground(const ClusterOptions& options, int report_fd) {
  const int64_t started = NowUs();
  const auto say = [](const std::string& line) {
    std::fprintf(stderr, "%lld %s\n", static_cast<long long>(UnixSeconds()), line.c_str());
  };
  auto supervisor = Supervisor::Create(options, say);
  absl::Status status = supervisor.status();
  if (status.ok()) {
    // From here on the log belongs to this supervisor: the state dir is its own.
    const std::string path = options.state_dir + "/logs/supervisor.log";
    std::rename(path.c_str(), (path + ".old").c_str());
    const auto log = OpenPrivateLog(path);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    ::dup2(null, 0);
    ::dup2(null, 1);
    ::dup2(log.ok() ? *log : null, 2);
    status = (*supervisor)->StartAll();
  }
  if (!status.ok()) {
    if (supervisor.ok()) supervisor->reset();  // ends the processes before the parent returns
    WriteAll(report_fd, kFailed + std::string(status.message()));
    return 1;
  }
  WriteAll(report_fd, kReady + ReadyText((*supervisor)->addresses(), options,
                                         static_cast<double>(NowUs() - started) / 1e6));
  ::close(report_fd);
  return (*supervisor)->RunUntilSignal().ok() ? 0 : 1;
}

absl::Status Detach(const ClusterOptions& options) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0)
    return absl::UnavailableError(absl::StrCat("pipe: ", std::strerror(errno)));
  const pid_t pid = ::fork();  // no thread was started yet
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
  if (pid == 0) {
    ::close(fds[0]);
    ::setsid();
    const int code = RunInBackground(options, fds[1]);
    ::_exit(code);
  }
  ::close(fds[1]);
  std::string report;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fds[0], buffer, sizeof(buffer))) != 0;) {
    if (n > 0) report.append(buffer, static_cast<size_t>(n));
    if (n < 0 && errno != EINTR) break;
  }
  ::close(fds[0]);
  if (!report.empty() && report[0] == kReady) {
    std::printf("%s  'tutti status' shows it, 'tutti down' stops it\n", report.c_str() + 1);
    return absl::OkStatus();
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (!report.empty()) return absl::UnavailableError(report.substr(1));
  return absl::UnavailableError("the supervisor died while it started; see " + options.state_dir +
                                "/logs/supervisor.log");
}

}  // namespace

void AddUp(CLI::App* app, Action* action) {
  struct Options {
    ClusterOptions cluster;
    bool detach = false;
  };
  auto o = std::make_shared<Options>();
  ClusterOptions& c = o->cluster;
  CLI::App* sub = app->add_subcommand("up", "Start a cluster on this machine");
  sub->footer(
      "Starts gateway, router, tokenizer and targets as processes, waits until they are healthy, "
      "prints\n"
      "\"ready\" and the addresses, and starts again what dies. Logs lie in STATE_DIR/logs.\n"
      "Examples:\n"
      "  tutti up --model model.gguf                     stays in the foreground; Ctrl-C stops "
      "all\n"
      "  tutti up --model model.gguf --detach            goes to the background; 'tutti down' "
      "stops it\n"
      "  tutti up --model model.gguf --targets 2 --http 0 --grpc 0 --state-dir /tmp/second");
  sub->add_option("--model", c.model,
                  "A .gguf file, a folder with config.json and *.safetensors, or a directory\nthat "
                  "'tutti pack' wrote (targets then share one copy of the weights)")
      ->required();
  sub->add_option("--targets", c.targets, "Decoder processes")->capture_default_str();
  sub->add_option("--experts", c.experts,
                  "Expert shards; targets then run the experts of every layer there")
      ->capture_default_str();
  sub->add_flag(
         absl::StrCat("--local-experts{", ClusterOptions::kShare, "}"), c.local_experts,
         "With --experts: those that targets run themselves, without a hop: all, a number of\n"
         "each layer's, or LAYERS/EXPERTS (--local-experts=0-29/0,3/5); alone: as many of each\n"
         "layer as a shard gets")
      ->type_name("[=EXPERTS]");
  sub->add_option("--ffn-slices", c.ffn_slices,
                  "Cut a dense model's FFN into so many experts; changes the answer")
      ->capture_default_str();
  sub->add_option("--threads", c.threads, "Threads of each target; 0 divides the cores among them")
      ->capture_default_str();
  sub->add_option("--http", c.http_port, "Port of the OpenAI API and the web page; 0: a free one")
      ->capture_default_str();
  sub->add_option("--grpc", c.grpc_port, "Port of the gRPC API; 0: a free one")
      ->capture_default_str();
  sub->add_option("--served-model-name", c.served_model_name,
                  "Names under which clients find the model, comma separated; answers show the "
                  "first. Without: the name in its file")
      ->type_name("NAME[,ALIAS]");
  sub->add_option("--host", c.host,
                  "Address to listen on for clients: a name, IPv4 or IPv6; 0.0.0.0 or :: for all")
      ->capture_default_str();
  sub->add_option("--api-key-file", c.api_key_file,
                  "File with one API key per line, asked of HTTP clients")
      ->group("HTTP");
  sub->add_option("--cors-origin", c.cors_origin,
                  "Let pages of these origins use the API, comma separated (\"*\": any)")
      ->group("HTTP");
  sub->add_option("--allowed-hosts", c.allowed_hosts,
                  "Host names that requests may name, comma separated")
      ->group("HTTP");
  sub->add_option("--request-timeout", c.request_timeout,
                  "Seconds for one generation; 0: no limit; default: the gateway's")
      ->check(CLI::Range(0.0, 86400.0))
      ->group("HTTP");
  sub->add_option("--tls-cert", c.tls_cert, "PEM certificate (chain) to serve HTTPS with")
      ->group("HTTP");
  sub->add_option("--tls-key", c.tls_key, "PEM key of --tls-cert")->group("HTTP");
  sub->add_option("--kv", c.kv,
                  "Type of the KV cache: q8 takes half the memory of f16 and is faster at long "
                  "contexts; it changes answers a little")
      ->check(CLI::IsMember(model::KvTypeNames()))
      ->capture_default_str();
  sub->add_option(
         "--draft", c.draft,
         "Who guesses tokens ahead of the model, which checks several in one step:\n"
         "none, ngram (what followed the same tokens before), self (the model without some\n"
         "layers), or a smaller model. Changes only speed")
      ->type_name("none|ngram|self|PATH")
      ->capture_default_str();
  sub->add_option("--drafts", c.drafts, "Processes of that faster model")->capture_default_str();
  sub->add_option("--audit", c.audit,
                  "Share of finished answers that a second target computes again and compares; a "
                  "target that is found wrong gets no more work. 0: none")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub->add_option("--target-arg", c.target_args, "Passed on to every target; may be given again");
  sub->add_option("--ready-timeout", c.ready_timeout_s,
                  "Seconds until a start that is not ready has failed")
      ->capture_default_str();
  sub->add_option("--grace", c.grace_s, "Seconds for running requests when the cluster stops")
      ->capture_default_str();
  AddStateDirFlag(sub, &c.state_dir);
  sub->add_flag("--detach", o->detach, "Return when it is ready, and leave it running");
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      std::error_code error;
      o->cluster.binary_dir = fs::read_symlink("/proc/self/exe", error).parent_path().string();
      return o->detach ? Detach(o->cluster) : RunInForeground(o->cluster);
    };
  });
}

}  // namespace tutti::cli
