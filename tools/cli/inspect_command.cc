#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "shared/weights/inspect.h"
#include "tools/cli/commands.h"

namespace tutti::cli {

void AddInspect(CLI::App* app, Action* action) {
  struct Options {
    std::string file;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("inspect", "Show what is inside a model file or folder");
  sub->footer(
      "Examples:\n  tutti inspect model.gguf\n  tutti inspect some-hub-folder/ --json\n"
      "Reads headers only, so it is quick on any size.");
  sub->add_option("FILE", o->file,
                  "A .gguf file, a Hugging Face folder, a packed directory, or a .safetensors file")
      ->required();
  sub->add_flag("--json", o->json, "One JSON object instead of text");
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(o->file));
      const weights::Inspection in = weights::Inspect(*files);
      const std::string text =
          o->json
              ? weights::ToJson(in).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
                    "\n"
              : weights::ToText(in);
      std::fwrite(text.data(), 1, text.size(), stdout);
      return absl::OkStatus();
    };
  });
}

}  // namespace tutti::cli
