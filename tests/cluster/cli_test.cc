// The real binaries on loopback, driven by the command line as a user would: start, ask, lose a
// target in the middle of an answer, stop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "shared/testing/model_writer.h"

namespace tutti {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

struct Result {
  int code = -1;
  std::string out;  // stdout and stderr
  json Json() const { return json::parse(out, nullptr, false); }
};

std::string Quote(const std::string& s) { return "'" + s + "'"; }

// Runs a shell's command; its stdout.
Result Shell(const std::string& command) {
  Result r;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) r.out.append(buffer, n);
  const int status = ::pclose(pipe);
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return r;
}

// Runs `tutti ARGS...`; with `stderr_too` false only stdout is kept.
Result Tutti(const std::vector<std::string>& args, bool stderr_too = true) {
  std::string command = TUTTI_BIN_DIR "/tutti";
  for (const auto& a : args) command += " " + Quote(a);
  return Shell(command + (stderr_too ? " 2>&1 </dev/null" : " 2>/dev/null </dev/null"));
}

bool Eventually(const std::function<bool()>& condition, double seconds = 120) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return condition();
}

// A dead process, also one that nobody has waited for.
bool Gone(int64_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(stat, line)) return true;
  const size_t end = line.rfind(')');
  return end != line.npos && line.size() > end + 2 && line[end + 2] == 'Z';
}

std::string ModelPath() {
  const char* env = std::getenv("TUTTI_MODEL");
  return env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class CliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << "no model at " << ModelPath();
  }
  void TearDown() override { Tutti({"down", "--state-dir", state()}); }

  const std::string& state() const { return dir_.path(); }
  Result Up(int targets) {
    return Tutti({"up", "--model", ModelPath(), "--targets", std::to_string(targets), "--threads",
                  "1", "--http", "0", "--grpc", "0", "--state-dir", state(), "--detach"});
  }
  json Status() { return Tutti({"status", "--json", "--state-dir", state()}, false).Json(); }
  // A worker of that kind for which `condition` holds; null when there is none.
  json Worker(const std::string& kind,
              const std::function<bool(const json&)>& condition = nullptr) {
    const json status = Status();
    if (!status.is_object()) return nullptr;
    for (const json& w : status["workers"]) {
      if (w["kind"] == kind && (!condition || condition(w))) return w;
    }
    return nullptr;
  }
  std::vector<std::string> GenerateArgs(int max_tokens, const std::vector<std::string>& where) {
    std::vector<std::string> args = {"generate",
                                     "--prompt",
                                     "The quick brown fox",
                                     "--seed",
                                     "7",
                                     "--temperature",
                                     "0.8",
                                     "--max-tokens",
                                     std::to_string(max_tokens),
                                     "--ignore-eos",
                                     "--json"};
    args.insert(args.end(), where.begin(), where.end());
    return args;
  }
  std::vector<std::string> OnCluster() { return {"--state-dir", state()}; }

  testing::TempDir dir_;
};

void ExpectSameAnswer(const json& a, const json& b) {
  ASSERT_TRUE(a.is_object() && b.is_object()) << a << b;
  for (const char* key : {"text", "token_ids", "digest", "fingerprint", "seed"})
    EXPECT_EQ(a[key], b[key]) << key;
  EXPECT_EQ(a["usage"]["output_tokens"], b["usage"]["output_tokens"]);
}

TEST_F(CliTest, AClusterAnswersAsOneProcessDoesAndStopsCleanly) {
  const Result up = Up(1);
  ASSERT_EQ(up.code, 0) << up.out;
  EXPECT_THAT(up.out, HasSubstr("ready"));
  EXPECT_THAT(up.out, HasSubstr("http://127.0.0.1:"));

  const json status = Status();
  ASSERT_TRUE(status.is_object());
  std::multiset<std::string> kinds;
  std::vector<int64_t> pids = {status["supervisor_pid"].get<int64_t>()};
  for (const json& w : status["workers"]) {
    kinds.insert(w["kind"].get<std::string>());
    pids.push_back(w["pid"].get<int64_t>());
    EXPECT_EQ(w["healthy"], true) << w;
    EXPECT_FALSE(Gone(pids.back()));
  }
  EXPECT_EQ(kinds, (std::multiset<std::string>{"gateway", "router", "target", "tokenizer"}));

  const Result local = Tutti(GenerateArgs(24, {"--model", ModelPath()}), false);
  const Result cluster = Tutti(GenerateArgs(24, OnCluster()), false);
  ExpectSameAnswer(local.Json(), cluster.Json());
  EXPECT_EQ(cluster.Json()["token_ids"].size(), 24u);

  const Result second = Up(1);
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.out, HasSubstr("a cluster runs in"));

  const Result down = Tutti({"down", "--state-dir", state()});
  EXPECT_EQ(down.code, 0) << down.out;
  for (const int64_t pid : pids) EXPECT_TRUE(Gone(pid)) << pid;
  EXPECT_EQ(Tutti({"status", "--state-dir", state()}).code, 1);
  EXPECT_EQ(Tutti({"down", "--state-dir", state()}).code, 1);
}

TEST_F(CliTest, ATargetKilledInTheMiddleOfAnAnswerChangesNothingAndIsStartedAgain) {
  const Result up = Up(2);
  ASSERT_EQ(up.code, 0) << up.out;
  const json local = Tutti(GenerateArgs(160, {"--model", ModelPath()}), false).Json();

  auto answer = std::async(std::launch::async,
                           [&] { return Tutti(GenerateArgs(160, OnCluster()), false).Json(); });
  json busy;
  ASSERT_TRUE(Eventually([&] {
    busy = Worker("target", [](const json& w) { return w["load"].value("running", 0) > 0; });
    return !busy.is_null();
  })) << "no target ever reported a running sequence";
  const auto pid = busy["pid"].get<int64_t>();
  ASSERT_EQ(::kill(static_cast<pid_t>(pid), SIGKILL), 0);
  ExpectSameAnswer(local, answer.get());

  EXPECT_TRUE(Eventually([&] {
    const json again = Worker("target", [&](const json& w) { return w["name"] == busy["name"]; });
    return !again.is_null() && again["pid"] != pid && again["restarts"] == 1 &&
           again["healthy"] == true;
  })) << Status().dump(1);
}

TEST_F(CliTest, TheModelDraftsForItselfAndAnswersTheSame) {
  const Result up = Tutti({"up", "--model", ModelPath(), "--threads", "1", "--draft", "self",
                           "--http", "0", "--grpc", "0", "--state-dir", state(), "--detach"});
  ASSERT_EQ(up.code, 0) << up.out;
  const json draft = Worker("draft");
  ASSERT_TRUE(draft.is_object());
  EXPECT_EQ(draft["healthy"], true);
  const json local = Tutti(GenerateArgs(40, {"--model", ModelPath()}), false).Json();
  ExpectSameAnswer(local, Tutti(GenerateArgs(40, OnCluster()), false).Json());
}

// A draft for any model: itself in a smaller type.
TEST_F(CliTest, TheModelInASmallerTypeDraftsForIt) {
  const std::string small = state() + "/small.gguf";
  const Result made =
      Tutti({"quantize", "--model", ModelPath(), "--type", "Q4_0", "--out", small, "--no-report"});
  ASSERT_EQ(made.code, 0) << made.out;
  // A target as slow as a larger one, so that its draft can be ahead of it.
  const Result up =
      Tutti({"up", "--model", ModelPath(), "--threads", "1", "--draft", small,
             "--target-arg=--forward-us-min", "--target-arg=60000", "--target-arg=--draft-always",
             "--http", "0", "--grpc", "0", "--state-dir", state(), "--detach"});
  ASSERT_EQ(up.code, 0) << up.out;
  const json local = Tutti(GenerateArgs(40, {"--model", ModelPath()}), false).Json();
  const json answer = Tutti(GenerateArgs(40, OnCluster()), false).Json();
  ExpectSameAnswer(local, answer);
  EXPECT_EQ(local["usage"]["proposed_tokens"], 0);
  EXPECT_GT(answer["usage"]["accepted_tokens"], 5) << answer;
}

TEST_F(CliTest, BenchAndChatReachTheClusterOverBothApis) {
  const Result up = Up(1);
  ASSERT_EQ(up.code, 0) << up.out;
  for (const std::string where : {"grpc", "http", "process"}) {
    std::vector<std::string> args = {"bench", "--clients",    "3", "--requests",
                                     "6",     "--max-tokens", "8", "--prompt-words",
                                     "8",     "--json"};
    args.insert(args.end(), {"--seed", "11"});
    const bool in_process = where == "process";
    args.push_back(in_process ? "--model" : "--state-dir");
    args.push_back(in_process ? ModelPath() : state());
    if (where == "http") args.push_back("--http");
    const json r = Tutti(args, false).Json();
    ASSERT_TRUE(r.is_object());
    EXPECT_EQ(r["completed"], 6) << r.dump(1);
    EXPECT_EQ(r["failed"], 0);
    EXPECT_EQ(r["seed"], 11);
    EXPECT_EQ(r["output_tokens"], 48);
    EXPECT_GT(r["output_tokens_per_s"], 0.0);
    EXPECT_GT(r["first_token_s"]["p50"], 0.0);
    EXPECT_LE(r["first_token_s"]["p50"], r["end_to_end_s"]["p99"]);
  }
  // Two turns from a pipe; the second sees the first.
  const std::string script = "printf 'My name is Ada.\\n/seed 3\\nSay hello.\\n' | " TUTTI_BIN_DIR
                             "/tutti chat --temperature 0 --max-tokens 12 --state-dir " +
                             state();
  const Result chat = Shell(script);
  EXPECT_EQ(chat.code, 0);
  EXPECT_THAT(chat.out, HasSubstr("seed 3"));
  EXPECT_GT(chat.out.size(), 20u);
}

TEST_F(CliTest, ARouterKilledIsStartedAgainAndTheWorkersComeBack) {
  const Result up = Up(1);
  ASSERT_EQ(up.code, 0) << up.out;
  const json before = Tutti(GenerateArgs(8, OnCluster()), false).Json();
  const auto pid = Worker("router")["pid"].get<int64_t>();
  ASSERT_EQ(::kill(static_cast<pid_t>(pid), SIGKILL), 0);
  EXPECT_TRUE(Eventually([&] {
    const json router = Worker("router"), target = Worker("target"), gateway = Worker("gateway");
    return router.is_object() && router["pid"] != pid && router["healthy"] == true &&
           target.is_object() && target["state"] == "ready" && gateway.is_object() &&
           gateway["healthy"] == true;
  })) << Status().dump(1);
  ExpectSameAnswer(before, Tutti(GenerateArgs(8, OnCluster()), false).Json());
}

// The router is told to end in the middle of an answer, and then its only target dies: the answer
// is whole all the same, and new requests wait for the next router alone.
TEST_F(CliTest, ARouterThatDrainsFinishesWhatRunsWhileTheNextOneServes) {
  const Result up = Up(1);
  ASSERT_EQ(up.code, 0) << up.out;
  const std::string http = Status()["http"];
  const json expected = Tutti(GenerateArgs(300, OnCluster()), false).Json();
  const int64_t router = Worker("router")["pid"], target = Worker("target")["pid"];
  const auto ask = [&](int max_tokens) {
    const json body = {{"prompt", "The quick brown fox"},
                       {"seed", 7},
                       {"temperature", 0.8},
                       {"max_tokens", max_tokens},
                       {"ignore_eos", true}};
    return Shell("curl -s -m 300 http://" + http + "/v1/completions -d " + Quote(body.dump()) +
                 " -H 'Content-Type: application/json'")
        .Json();
  };
  auto running = std::async(std::launch::async, [&] { return ask(300); });
  ASSERT_TRUE(Eventually([&] {
    return Worker("target", [](const json& w) { return w["load"]["running"].get<int>() > 0; }) !=
           nullptr;
  }));
  ASSERT_EQ(::kill(static_cast<pid_t>(router), SIGTERM), 0);
  auto meanwhile = std::async(std::launch::async, [&] { return ask(8); });
  ::kill(static_cast<pid_t>(target), SIGKILL);
  for (auto* answer : {&running, &meanwhile}) {
    const json j = answer->get();
    ASSERT_TRUE(j.contains("choices")) << j.dump(1);
    const std::string text = j["choices"][0]["text"], whole = expected["text"];
    EXPECT_EQ(text, whole.substr(0, text.size()));
    EXPECT_EQ(text.size() == whole.size(), answer == &running);
  }
  EXPECT_TRUE(Eventually([&] { return Gone(router); }));
  EXPECT_TRUE(Eventually([&] {
    const json status = Status();
    return status.is_object() && status["workers"].size() == 4 &&
           Worker("router", [&](const json& w) {
             return w["pid"] != router && w["restarts"] == 1;
           }) != nullptr;
  })) << Status().dump(1);
}

// Stopped, they accept connections (the kernel does) and say nothing.
TEST_F(CliTest, WhatIsFrozenIsKilledAndStartedAgain) {
  const Result up = Up(2);
  ASSERT_EQ(up.code, 0) << up.out;
  const json before = Tutti(GenerateArgs(8, OnCluster()), false).Json();
  std::set<int64_t> frozen;
  const json status = Status();
  for (const json& w : status["workers"]) {
    if (w["name"] == "target-1") continue;
    frozen.insert(w["pid"].get<int64_t>());
    ASSERT_EQ(::kill(static_cast<pid_t>(w["pid"].get<int64_t>()), SIGSTOP), 0);
  }
  EXPECT_EQ(frozen.size(), 4u);
  EXPECT_TRUE(Eventually(
      [&] {
        const json now = Status();
        if (!now.is_object() || now["workers"].size() != 5) return false;
        return std::all_of(now["workers"].begin(), now["workers"].end(), [&](const json& w) {
          return w["healthy"] == true && !frozen.contains(w["pid"].get<int64_t>()) &&
                 w["restarts"] == (w["name"] == "target-1" ? 0 : 1);
        });
      },
      120))
      << Status().dump(1);
  ExpectSameAnswer(before, Tutti(GenerateArgs(8, OnCluster()), false).Json());
}

// A small disk of its own, which is filled to the last byte.
TEST_F(CliTest, AFullDiskCostsLogsAndNeverTheCluster) {
  const std::string disk = dir_.path() + "/disk", folder = disk + "/state";
  std::filesystem::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "needs to be root to make a small disk";
  const auto status = [&] {
    return Tutti({"status", "--json", "--state-dir", folder}, false).Json();
  };
  const Result up = Tutti({"up", "--model", ModelPath(), "--threads", "1", "--http", "0", "--grpc",
                           "0", "--state-dir", folder, "--detach"});
  EXPECT_EQ(up.code, 0) << up.out;
  const json before = status();
  {
    std::ofstream fill(disk + "/fill");
    const std::string page(4096, 'x');
    while (fill.write(page.data(), 4096).flush()) {
    }
  }
  const auto pid_of = [](const json& s, const std::string& kind) -> int64_t {
    if (!s.is_object()) return 0;
    for (const json& w : s["workers"]) {
      if (w["kind"] == kind) return w["pid"].get<int64_t>();
    }
    return 0;
  };
  const int64_t tokenizer = pid_of(before, "tokenizer");
  ASSERT_GT(tokenizer, 1);
  EXPECT_EQ(::kill(static_cast<pid_t>(tokenizer), SIGKILL), 0);
  // The next tokenizer serves, though nothing can be written about it.
  EXPECT_TRUE(Eventually(
      [&] {
        return Tutti({"generate", "x", "--max-tokens", "2", "--state-dir", folder}).code == 0;
      },
      60));
  EXPECT_FALSE(Gone(before["supervisor_pid"].get<int64_t>()));
  // With room again, the state is what runs.
  std::filesystem::remove(disk + "/fill");
  EXPECT_TRUE(Eventually(
      [&] {
        const int64_t now = pid_of(status(), "tokenizer");
        return now > 1 && now != tokenizer;
      },
      60))
      << status().dump(1);
  EXPECT_EQ(Tutti({"down", "--state-dir", folder}).code, 0);
  EXPECT_EQ(::umount(disk.c_str()), 0);
}

TEST_F(CliTest, TheStateIsReadableByNobodyElseAndDownTrustsNoFile) {
  const Result up = Tutti({"up", "--model", ModelPath(), "--threads", "1", "--http", "0", "--grpc",
                           "0", "--state-dir", state(), "--detach", "--cors-origin", "*"});
  ASSERT_EQ(up.code, 0) << up.out;
  for (const auto& e : std::filesystem::recursive_directory_iterator(state())) {
    if (e.is_regular_file() || e.is_directory()) {
      EXPECT_EQ(static_cast<unsigned>(e.status().permissions()) & 077, 0u) << e.path();
    }
  }
  // A cluster.json that names another process: it is not signalled.
  const pid_t victim = ::fork();
  if (victim == 0) {
    for (;;) ::pause();
  }
  json saved;
  std::ifstream(state() + "/cluster.json") >> saved;
  json changed = saved;
  changed["supervisor_pid"] = victim;
  std::ofstream(state() + "/cluster.json") << changed;
  const Result down = Tutti({"down", "--state-dir", state()});
  EXPECT_EQ(down.code, 1);
  EXPECT_THAT(down.out, HasSubstr("does not hold"));
  EXPECT_EQ(::waitpid(victim, nullptr, WNOHANG), 0);
  ::kill(victim, SIGKILL);
  ::waitpid(victim, nullptr, 0);
  std::ofstream(state() + "/cluster.json") << saved;
  EXPECT_EQ(Tutti({"down", "--state-dir", state()}).code, 0);
}

TEST_F(CliTest, GatewayOptionsAndIPv6ReachTheGateway) {
  std::ofstream(state() + "/keys") << "secret-key\n";
  const int v6 = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 loopback = {};
  loopback.sin6_family = AF_INET6;
  loopback.sin6_addr = in6addr_loopback;
  const bool has_v6 =
      v6 >= 0 && ::bind(v6, reinterpret_cast<sockaddr*>(&loopback), sizeof(loopback)) == 0;
  if (v6 >= 0) ::close(v6);
  const Result up = Tutti({"up",
                           "--model",
                           ModelPath(),
                           "--threads",
                           "1",
                           "--host",
                           has_v6 ? "::1" : "localhost",
                           "--http",
                           "0",
                           "--grpc",
                           "0",
                           "--state-dir",
                           state(),
                           "--detach",
                           "--api-key-file",
                           state() + "/keys",
                           "--cors-origin",
                           "https://page.example",
                           "--request-timeout",
                           "30",
                           "--served-model-name",
                           "demo,org/alias"});
  ASSERT_EQ(up.code, 0) << up.out;
  if (has_v6) {
    EXPECT_THAT(up.out, HasSubstr("http://[::1]:"));
  }
  const std::string gateway = Worker("gateway")["address"].get<std::string>();
  const auto get = [&](const std::string& header) {
    return Shell("curl -s -i -g -H '" + header + "' -H 'Origin: https://page.example' http://" +
                 gateway + "/v1/models 2>&1")
        .out;
  };
  EXPECT_THAT(get("X: y"), HasSubstr(" 401 "));
  const std::string with_key = get("Authorization: Bearer secret-key");
  EXPECT_THAT(with_key, HasSubstr(" 200 "));
  EXPECT_THAT(with_key, HasSubstr("https://page.example"));
  // Both names are listed, and either finds the model; the first stands in the fleet's view.
  EXPECT_THAT(with_key, HasSubstr("\"id\":\"demo\""));
  EXPECT_THAT(with_key, HasSubstr("\"id\":\"org/alias\""));
  for (const char* name : {"demo", "org/alias", "nobody"}) {
    const std::string body = json{{"model", name}, {"prompt", "x"}, {"max_tokens", 1}}.dump();
    const Result r = Shell(
        "curl -s -g -H 'Authorization: Bearer secret-key' -H 'Content-Type: "
        "application/json' http://" +
        gateway + "/v1/completions -d " + Quote(body));
    EXPECT_EQ(r.Json().contains("choices"), std::string(name) != "nobody") << r.out;
  }
  const Result answer = Tutti({"generate", "The sea", "--max-tokens", "2", "--state-dir", state()});
  EXPECT_EQ(answer.code, 0) << answer.out;
}

TEST_F(CliTest, TheProcessesDieWithTheirSupervisor) {
  const Result up = Up(1);
  ASSERT_EQ(up.code, 0) << up.out;
  const json status = Status();
  ASSERT_EQ(::kill(static_cast<pid_t>(status["supervisor_pid"].get<int64_t>()), SIGKILL), 0);
  for (const json& w : status["workers"]) {
    EXPECT_TRUE(Eventually([&] { return Gone(w["pid"].get<int64_t>()); })) << w["name"];
  }
  // The state dir is free again.
  EXPECT_TRUE(Eventually([&] { return Tutti({"status", "--state-dir", state()}).code == 1; }));
  const Result again = Up(1);
  EXPECT_EQ(again.code, 0) << again.out;
}

TEST_F(CliTest, APortInUseIsRefusedBeforeAnythingStarts) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const Result r = Tutti({"up", "--model", ModelPath(), "--http", port, "--grpc", "0",
                          "--state-dir", state(), "--detach"});
  ::close(fd);
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.out, HasSubstr("--http: 127.0.0.1:" + port));
}

TEST_F(CliTest, AMixtureMadeHereIsServedWithItsExpertsOnShards) {
  const std::string moe = dir_.path() + "/moe.gguf";
  const Result made = Tutti({"upcycle", "--model", ModelPath(), "--experts", "4", "--tokens", "48",
                             "--no-report", "--out", moe});
  ASSERT_EQ(made.code, 0) << made.out;
  EXPECT_THAT(made.out, HasSubstr("4 experts in each of 30 layers"));
  const Result up = Tutti({"up", "--model", moe, "--experts", "2", "--threads", "1", "--http", "0",
                           "--grpc", "0", "--state-dir", state(), "--detach"});
  ASSERT_EQ(up.code, 0) << up.out;
  EXPECT_FALSE(Worker("expert").is_null());
  const Result local = Tutti(GenerateArgs(16, {"--model", moe}), false);
  const Result cluster = Tutti(GenerateArgs(16, OnCluster()), false);
  ExpectSameAnswer(local.Json(), cluster.Json());

  // While requests run: more shards, then fewer. They take load, and no answer changes.
  const Result alone = Tutti(GenerateArgs(200, {"--model", moe}), false);
  std::atomic<bool> enough{false};
  std::atomic<int> answers{0};
  std::thread load([&] {
    while (!enough) {
      ExpectSameAnswer(alone.Json(), Tutti(GenerateArgs(200, OnCluster()), false).Json());
      ++answers;
    }
  });
  const Result more = Tutti({"scale", "experts", "5", "--state-dir", state()});
  EXPECT_EQ(more.code, 0) << more.out;
  const auto ready = std::chrono::steady_clock::now();
  const auto all_busy = [&] {
    const json shards = Status()["expert_shards"];
    return shards.size() == 5 && std::all_of(shards.begin(), shards.end(), [](const json& s) {
             return s["rows"].get<int64_t>() > 0;
           });
  };
  EXPECT_TRUE(Eventually(all_busy, 30));
  std::printf(
      "ms from \"all ready\" to rows on each of 5 shards: %.0f\n",
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - ready).count());

  const Result pin =
      Tutti({"experts", "pin", "0:1", "29:3", "--shard", "expert-1", "--state-dir", state()});
  EXPECT_THAT(pin.out, HasSubstr("29:3 pinned expert-1"));
  const auto pinned_there = [&] {
    const json list = Tutti({"experts", "list", "--json", "--state-dir", state()}, false).Json();
    if (!list.is_object()) return false;
    for (const json& e : list["experts"]) {
      if (e["layer"] == 29 && e["expert"] == 3) return e["pinned"] == json::array({"expert-1"});
    }
    return false;
  };
  EXPECT_TRUE(Eventually(pinned_there)) << Tutti({"experts", "list", "--state-dir", state()}).out;

  const Result fewer = Tutti({"scale", "experts", "2", "--state-dir", state()});
  EXPECT_EQ(fewer.code, 0) << fewer.out;
  const int before = answers;
  EXPECT_TRUE(Eventually([&] { return answers >= before + 1; }));
  enough = true;
  load.join();
  const Result wrong = Tutti({"experts", "pin", "99:0", "--state-dir", state()});
  EXPECT_NE(wrong.code, 0) << wrong.out;
}

TEST_F(CliTest, SlicesOnAShardAndInTheTargetAreThoseOfOneProcess) {
  const Result up =
      Tutti({"up", "--model", ModelPath(), "--ffn-slices", "3", "--experts", "1", "--local-experts",
             "--threads", "1", "--http", "0", "--grpc", "0", "--state-dir", state(), "--detach"});
  ASSERT_EQ(up.code, 0) << up.out;
  const json plain = Tutti(GenerateArgs(16, {"--model", ModelPath()}), false).Json();
  const json local =
      Tutti(GenerateArgs(16, {"--model", ModelPath(), "--ffn-slices", "3"}), false).Json();
  EXPECT_NE(plain["digest"], local["digest"]);
  ExpectSameAnswer(local, Tutti(GenerateArgs(16, OnCluster()), false).Json());
  // The shard ran two of three.
  EXPECT_TRUE(Eventually([&] {
    const json list = Tutti({"experts", "list", "--json", "--state-dir", state()}, false).Json();
    if (!list.is_object() || list["experts"].size() != 90) return false;
    return std::all_of(list["experts"].begin(), list["experts"].end(), [](const json& e) {
      return (e["rows"].get<int64_t>() > 0) == (e["expert"] != 0);
    });
  })) << Tutti({"experts", "list", "--state-dir", state()}).out;
}

TEST_F(CliTest, WrongCommandsSayWhatIsRight) {
  const auto expect = [](const std::vector<std::string>& args, int code, const std::string& text) {
    const Result r = Tutti(args);
    EXPECT_EQ(r.code, code) << r.out;
    EXPECT_THAT(r.out, HasSubstr(text));
  };
  const std::string model = ModelPath();
  expect({}, 2, "--help");
  expect({"fly"}, 2, "fly");
  expect({"up", "--model", "/nowhere.gguf", "--state-dir", state()}, 1,
         "--model: /nowhere.gguf: no such file");
  expect({"up", "--model", model, "--targets", "0", "--state-dir", state()}, 1, "--targets: 0");
  expect({"up", "--model", model, "--draft", "selff", "--state-dir", state()}, 1,
         "--draft: none, ngram, self or a model");
  expect({"up", "--model", model, "--ffn-slices", "2", "--experts", "1", "--local-experts=3",
          "--state-dir", state()},
         1, "--local-experts: \"3\": the model has 30 layers of 2 experts");
  expect({"up", "--model", model, "--host", "no.such.host.invalid", "--state-dir", state()}, 1,
         "--host: no.such.host.invalid: ");
  expect({"up", "--model", model, "--served-model-name", "two words", "--state-dir", state()}, 1,
         "--served-model-name: \"two words\" is not one word");
  expect({"up", "--model", model, "--tls-cert", "/x", "--state-dir", state()}, 1,
         "--tls-cert: needs --tls-key");
  expect({"up", "--model", model, "--api-key-file", "/nowhere", "--state-dir", state()}, 1,
         "--api-key-file: /nowhere: cannot be read");
  expect({"generate", "--prompt", "x", "--state-dir", state()}, 1, "no cluster runs in");
  expect({"generate", "--prompt", "x", "--model", model, "--temperature", "-1"}, 1, "temperature");
  expect({"generate", "--prompt", "x", "--model", model, "--logit-bias", "a:b"}, 1, "--logit-bias");
  expect({"generate", "--ids", "1 two", "--model", model}, 1, "\"two\" is not a token id");
  expect({"generate", "--ids", "99999999", "--model", model}, 1, "99999999");
  expect({"logits", "--model", model, "--ids", "", "--out", state() + "/x.npy"}, 1, "no token ids");
  expect({"perplexity", TUTTI_SOURCE_DIR "/CMakeLists.txt", "--model", model, "--window", "99999"},
         1, "--window: 99999");
  expect({"inspect", TUTTI_SOURCE_DIR "/CMakeLists.txt"}, 1, "neither a GGUF file");
  expect({"generate", "--prompt", "x", "--address", "127.0.0.1:1"}, 1,
         "the router at 127.0.0.1:1: ");
  expect({"generate", "--model", TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa", "--prompt", "x"},
         1, "no usable tokenizer");
  expect({"bench", "--address", "127.0.0.1:1", "--clients", "0"}, 1, "--clients: 0");
  expect({"upcycle", "--model", model, "--experts", "2", "--top-k", "4", "--out", state() + "/x"},
         1, "--top-k: 4");
}

}  // namespace
}  // namespace tutti
