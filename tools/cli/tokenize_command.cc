#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "shared/base/strings.h"
#include "shared/tokenizer/tokenizer.h"
#include "tools/cli/commands.h"
#include "tools/cli/sampling_flags.h"

namespace tutti::cli {

void AddTokenize(CLI::App* app, Action* action) {
  struct Options {
    std::string model, text, file;
    bool no_special = false, plain = false, json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("tokenize", "Turn text into token ids");
  sub->footer(
      "Special tokens that stand in the text become those tokens, and what the model's "
      "post-processor\n"
      "adds (BOS, EOS) is added, unless told otherwise.\n"
      "Examples:\n"
      "  tutti tokenize --model model.gguf \"Hello world\"\n"
      "  tutti tokenize --model folder/tokenizer.json -f text.txt --no-special --json");
  sub->add_option(
         "--model", o->model,
         "A .gguf file, a folder with tokenizer.json, a packed directory, or a tokenizer.json")
      ->required();
  sub->add_option("TEXT", o->text, "The text");
  sub->add_option("-f,--file", o->file, "Read the text from a file; -: from stdin");
  sub->add_flag("--no-special", o->no_special, "Add no BOS, EOS or other special tokens");
  sub->add_flag("--plain", o->plain, "Special tokens' text inside TEXT is text like any other");
  sub->add_flag("--json", o->json, "One JSON object: ids, tokens, offsets (bytes), decoded");
  sub->callback([o, sub, action] {
    *action = [o, sub]() -> absl::Status {
      TUTTI_ASSIGN_OR_RETURN(const std::string text,
                             ReadPrompt(o->text, sub->count("TEXT") > 0, o->file));
      TUTTI_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::LoadTokenizer(o->model));
      const auto encoding = tokenizer->EncodeWithOffsets(
          text, {.parse_special = !o->plain, .add_special = !o->no_special});
      if (!o->json) {
        for (size_t i = 0; i < encoding.ids.size(); ++i) {
          std::printf("%8d  %s\n", encoding.ids[i],
                      Printable(tokenizer->decoder()->Bytes(encoding.ids[i]), 200).c_str());
        }
        std::printf("%zu tokens, %zu bytes\n", encoding.ids.size(), text.size());
        return absl::OkStatus();
      }
      nlohmann::json tokens = nlohmann::json::array(), offsets = nlohmann::json::array();
      for (const int32_t id : encoding.ids) tokens.push_back(tokenizer->TokenText(id));
      for (const auto& [begin, end] : encoding.offsets) offsets.push_back({begin, end});
      const nlohmann::json out = {{"ids", encoding.ids},
                                  {"tokens", tokens},
                                  {"offsets", offsets},
                                  {"decoded", tokenizer->decoder()->Decode(encoding.ids, false)}};
      std::printf("%s\n",
                  out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return absl::OkStatus();
    };
  });
}

}  // namespace tutti::cli
