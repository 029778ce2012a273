#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "shared/base/strings.h"
#include "tools/cli/commands.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

constexpr char kHelp[] =
    "  /help          this\n"
    "  /reset         forget the conversation\n"
    "  /seed N        seed of the next answers; /seed alone: a random one each time\n"
    "  /system TEXT   set the system message and forget the conversation\n"
    "  /quit          leave (or Ctrl-D)\n"
    "  Ctrl-C         stop the answer\n";

class Chat {
 public:
  Chat(std::unique_ptr<Generator> generator, router::RequestSpec spec, const std::string& system)
      : generator_(std::move(generator)), spec_(std::move(spec)), system_(system) {
    Reset();
  }

  absl::Status Run() {
    const bool terminal = IsTerminal(0);
    if (terminal)
      std::printf("%sA chat. /help shows the commands, Ctrl-D leaves.%s\n", Style(1, "\033[2m"),
                  Style(1, "\033[0m"));
    InterruptFlag interrupt;
    for (std::string line;;) {
      if (terminal) std::printf("%s> %s", Style(1, "\033[1m"), Style(1, "\033[0m"));
      std::fflush(stdout);
      errno = 0;
      if (!std::getline(std::cin, line)) {
        if (!interrupt.raised()) break;
        std::cin.clear();  // Ctrl-C at the prompt: a fresh one
        ::clearerr(stdin);
        interrupt.Clear();
        std::printf("\n");
        continue;
      }
      if (line.find_first_not_of(" \t\r") == line.npos) continue;
      if (line[0] == '/') {
        if (!Command(line)) break;
        continue;
      }
      if (!IsValidUtf8(line)) {
        std::printf("that is not UTF-8; type it again\n");
        continue;
      }
      interrupt.Clear();
      TUTTI_RETURN_IF_ERROR(Answer(line, terminal));
      interrupt.Clear();
    }
    if (terminal) std::printf("\n");
    return absl::OkStatus();
  }

 private:
  void Reset() {
    messages_ = json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  // False: leave.
  bool Command(const std::string& line) {
    const std::string word = line.substr(0, line.find(' '));
    std::string rest = word.size() < line.size() ? line.substr(word.size() + 1) : "";
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      std::printf("%s", kHelp);
    } else if (word == "/reset") {
      Reset();
      std::printf("the conversation is forgotten\n");
    } else if (word == "/system") {
      system_ = rest;
      Reset();
      std::printf("the system message is set\n");
    } else if (word == "/seed") {
      uint64_t seed = 0;
      if (rest.empty()) {
        spec_.has_seed = false;
        std::printf("a random seed for each answer\n");
      } else if (absl::SimpleAtoi(rest, &seed)) {
        spec_.has_seed = true;
        spec_.sampling.seed = seed;
        std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
      } else {
        std::printf("/seed: a number from 0 to 2^64 - 1, not \"%s\"\n", Printable(rest).c_str());
      }
    } else {
      std::printf("unknown command %s; /help shows them\n", Printable(word).c_str());
    }
    return true;
  }

  absl::Status Answer(const std::string& line, bool terminal) {
    messages_.push_back({{"role", "user"}, {"content", line}});
    spec_.prompt = router::ChatPrompt{.messages_json = messages_.dump()};
    const auto r = generator_->Generate(spec_, PrintModelText, &InterruptFlag::flag());
    if (!r.ok()) {
      messages_.erase(messages_.size() - 1);
      // Without a terminal nobody can react.
      if (!terminal || r.status().code() == absl::StatusCode::kFailedPrecondition)
        return r.status();
      std::fprintf(stderr, "%serror:%s %s\n", Style(2, "\033[1;31m"), Style(2, "\033[0m"),
                   std::string(r.status().message()).c_str());
      return absl::OkStatus();
    }
    messages_.push_back({{"role", "assistant"}, {"content", r->text}});
    std::printf("\n");
    if (terminal) {
      std::printf("%s[%s%s]%s\n", Style(1, "\033[2m"), SpeedLine(*r).c_str(),
                  r->finish == store::FinishReason::kCancelled ? ", stopped"
                  : r->finish == store::FinishReason::kLength  ? ", cut at --max-tokens"
                                                               : "",
                  Style(1, "\033[0m"));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Generator> generator_;
  router::RequestSpec spec_;
  std::string system_;
  json messages_;
};

}  // namespace

void AddChat(CLI::App* app, Action* action) {
  struct Options {
    WhereOptions where;
    router::RequestSpec spec;
    SamplingFlags sampling;
    std::string system;
  };
  auto o = std::make_shared<Options>();
  o->spec.sampling.max_tokens = 1024;
  o->spec.sampling.temperature = 0.7f;
  o->spec.sampling.top_p = 0.95f;
  CLI::App* sub = app->add_subcommand("chat", "Talk to the model");
  sub->footer(
      "Keeps the conversation; /help inside shows the commands.\n"
      "Examples:\n"
      "  tutti chat                       with the running cluster\n"
      "  tutti chat --model model.gguf    in one process\n"
      "  echo \"What is gravity?\" | tutti chat --seed 7");
  sub->add_option("--system", o->system, "The system message");
  o->sampling.Add(sub, &o->spec);
  AddWhereFlags(sub, &o->where);
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_RETURN_IF_ERROR(o->sampling.Finish());
      if (!IsValidUtf8(o->system)) return absl::InvalidArgumentError("--system: not UTF-8");
      TUTTI_ASSIGN_OR_RETURN(auto generator, MakeGenerator(o->where));
      return Chat(std::move(generator), o->spec, o->system).Run();
    };
  });
}

}  // namespace tutti::cli
