#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/sampling/ranges.h"
#include "tools/cli/commands.h"
#include "tools/cli/line_editor.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/terminal.h"
#include "tools/cli/where.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

constexpr char kHelp[] =
    "  /again         answer the last message once more\n"
    "  /undo          forget the last message and its answer\n"
    "  /reset         forget the conversation\n"
    "  /seed N        seed of the next answers; /seed alone: a random one each time\n"
    "  /system TEXT   set the system message and forget the conversation\n"
    "  /save FILE     write the conversation as JSON\n"
    "  /help          this\n"
    "  /quit          leave (or Ctrl-D)\n"
    "  Ctrl-C         stop the answer\n"
    "  Alt-Enter      a new line in the message; pasted lines stay one message\n"
    "  arrows, Ctrl-R what was typed before\n";

std::string TerminalPrompt() {
  return absl::StrCat("\1", Style(1, "\033[1m"), "\1> \1", Style(1, "\033[0m"), "\1");
}

class Chat {
 public:
  Chat(std::unique_ptr<Generator> generator, router::RequestSpec spec, const std::string& system)
      : generator_(std::move(generator)), spec_(std::move(spec)), system_(system) {
    Reset();
  }

  absl::Status Run(const std::string& history_file) {
    if (terminal_)
      std::printf("%sA chat. /help shows the commands, Ctrl-D leaves.%s\n", Style(1, "\033[2m"),
                  Style(1, "\033[0m"));
    InterruptFlag interrupt;
    LineEditor editor(
        {.prompt = TerminalPrompt(),
         .history_file = history_file,
         .words = {"/again", "/undo", "/reset", "/seed", "/system", "/save", "/help", "/quit"}});
    for (std::string line;;) {
      std::fflush(stdout);
      interrupt.Clear();
      const LineEditor::Outcome outcome = editor.Read(&line);
      if (outcome == LineEditor::Outcome::kEnd) break;
      if (outcome == LineEditor::Outcome::kInterrupted) {
        std::printf("\n%s(Ctrl-D or /quit leaves)%s\n", Style(1, "\033[2m"), Style(1, "\033[0m"));
        continue;
      }
      if (line.find_first_not_of(" \t\r\n") == line.npos) continue;
      if (!IsValidUtf8(line)) {
        std::printf("that is not UTF-8; type it again\n");
        continue;
      }
      if (line[0] == '/') {
        TUTTI_ASSIGN_OR_RETURN(const bool stay, Command(line));
        if (!stay) break;
        continue;
      }
      messages_.push_back({{"role", "user"}, {"content", line}});
      TUTTI_RETURN_IF_ERROR(Answer());
    }
    if (terminal_) std::printf("\n");
    return absl::OkStatus();
  }

 private:
  void Reset() {
    messages_ = json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  // Drops the last answer, if the conversation ends in one.
  void DropAnswer() {
    if (!messages_.empty() && messages_.back()["role"] == "assistant")
      messages_.erase(messages_.size() - 1);
  }
  bool EndsInMessage() const { return !messages_.empty() && messages_.back()["role"] == "user"; }

  // False: leave. Errors: as Answer
  absl::StatusOr<bool> Command(const std::string& line) {
    const std::string word = line.substr(0, line.find(' '));
    std::string rest = word.size() < line.size() ? line.substr(word.size() + 1) : "";
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      std::printf("%s", kHelp);
    } else if (word == "/again") {
      DropAnswer();
      if (EndsInMessage()) {
        TUTTI_RETURN_IF_ERROR(Answer());
      } else {
        std::printf("there is no message to answer\n");
      }
    } else if (word == "/undo") {
      DropAnswer();
      if (EndsInMessage()) {
        messages_.erase(messages_.size() - 1);
        std::printf("the last message is forgotten\n");
      } else {
        std::printf("there is no message to forget\n");
      }
    } else if (word == "/reset") {
      Reset();
      std::printf("the conversation is forgotten\n");
    } else if (word == "/system") {
      system_ = rest;
      Reset();
      std::printf("the system message is set\n");
    } else if (word == "/save") {
      Save(rest);
    } else if (word == "/seed") {
      SetSeed(rest);
    } else {
      std::printf("unknown command %s; /help shows them\n", Printable(word).c_str());
    }
    return true;
  }

  void SetSeed(const std::string& text) {
    if (text.empty()) {
      spec_.has_seed = false;
      std::printf("a random seed for each answer\n");
      return;
    }
    const auto seed = sampling::SeedFromText(text);
    if (!seed.ok()) {
      std::printf("/%s\n", std::string(seed.status().message()).c_str());
      return;
    }
    spec_.has_seed = true;
    spec_.sampling.seed = *seed;
    std::printf("seed %llu\n", static_cast<unsigned long long>(*seed));
  }

  void Save(const std::string& file) const {
    if (file.empty()) {
      std::printf("/save: needs the name of a file\n");
      return;
    }
    std::ofstream out(file);
    out << messages_.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
    out.close();
    if (out) {
      std::printf("%zu messages written to %s\n", messages_.size(), Printable(file).c_str());
    } else {
      std::printf("/save: %s cannot be written\n", Printable(file).c_str());
    }
  }

  // Answers the last message. Errors: those that end the chat
  absl::Status Answer() {
    spec_.prompt = router::ChatPrompt{.messages_json = messages_.dump()};
    const auto r = generator_->Generate(spec_, PrintModelText, &InterruptFlag::flag());
    if (!r.ok()) {
      messages_.erase(messages_.size() - 1);
      // Without a terminal nobody can react.
      if (!terminal_ || r.status().code() == absl::StatusCode::kFailedPrecondition)
        return r.status();
      std::fprintf(stderr, "%serror:%s %s\n", Style(2, "\033[1;31m"), Style(2, "\033[0m"),
                   std::string(r.status().message()).c_str());
      return absl::OkStatus();
    }
    messages_.push_back({{"role", "assistant"}, {"content", r->text}});
    std::printf("\n");
    if (terminal_) {
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
  const bool terminal_ = IsTerminal(0) && IsTerminal(1);
};

}  // namespace

void AddChat(CLI::App* app, Action* action) {
  struct Options {
    WhereOptions where;
    router::RequestSpec spec;
    SamplingFlags sampling;
    std::string system;
    bool no_history = false;
  };
  auto o = std::make_shared<Options>();
  o->spec.sampling.max_tokens = 1024;
  o->spec.sampling.temperature = 0.7f;
  o->spec.sampling.top_p = 0.95f;
  CLI::App* sub = app->add_subcommand("chat", "Talk to the model");
  sub->footer(
      "Keeps the conversation; /help inside shows the commands. What is typed at a terminal is "
      "kept\n"
      "for the next time in ~/.local/state/tutti/chat_history (XDG_STATE_HOME).\n"
      "Examples:\n"
      "  tutti chat                       with the running cluster\n"
      "  tutti chat --model model.gguf    in one process\n"
      "  echo \"What is gravity?\" | tutti chat --seed 7");
  sub->add_option("--system", o->system, "The system message");
  sub->add_flag("--no-history", o->no_history, "Neither read nor keep what is typed");
  o->sampling.Add(sub, &o->spec);
  AddWhereFlags(sub, &o->where);
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_RETURN_IF_ERROR(o->sampling.Finish());
      if (!IsValidUtf8(o->system)) return absl::InvalidArgumentError("--system: not UTF-8");
      TUTTI_ASSIGN_OR_RETURN(auto generator, MakeGenerator(o->where));
      return Chat(std::move(generator), o->spec, o->system)
          .Run(o->no_history ? "" : HistoryPath("chat"));
    };
  });
}

}  // namespace tutti::cli
