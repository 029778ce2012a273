#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tools/cli/commands.h"
#include "tools/cli/local_model.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

// Header of a .npy file (version 1.0) with a C-ordered little-endian f32 matrix.
std::string NpyHeader(size_t rows, size_t columns) {
  std::string dict = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ",
                                  columns, "), }");
  constexpr size_t kPrefix = 10;  // magic, version, length
  dict.append(63 - (kPrefix + dict.size()) % 64, ' ');
  dict += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(dict.size() & 255);
  out += static_cast<char>(dict.size() >> 8);
  return out + dict;
}

}  // namespace

void AddLogits(CLI::App* app, Action* action) {
  struct Options {
    LocalModelOptions local;
    std::string ids, out;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub =
      app->add_subcommand("logits", "Write a model's logits at every position of a prompt");
  sub->footer(
      "In one process, without services. X.npy holds [tokens, vocabulary] f32: row i predicts "
      "token i + 1.\n"
      "Example:\n"
      "  tutti logits --model model.gguf --ids \"9519 12766 7868\" --out logits.npy");
  sub->add_option("--model", o->local.model, "A .gguf file, a model folder or a packed directory")
      ->required();
  sub->add_option("--ids", o->ids, "Token ids: \"1 2 3\"")->required();
  sub->add_option("--out", o->out, "The .npy file to write")->required();
  AddLocalModelFlags(sub, &o->local);
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_ASSIGN_OR_RETURN(const auto ids, ParseIds(o->ids, "--ids"));
      TUTTI_ASSIGN_OR_RETURN(const auto model, LoadLocalModel(o->local));
      const auto vocab = static_cast<size_t>(model->decoder->info().vocab_size);
      const std::string temporary = o->out + ".new";
      const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(temporary.c_str(), "wb"));
      if (file == nullptr)
        return absl::UnavailableError(
            absl::StrCat("--out: ", temporary, ": ", std::strerror(errno)));
      const auto write = [&](const void* data, size_t size) {
        return std::fwrite(data, 1, size, file.get()) == size
                   ? absl::OkStatus()
                   : absl::UnavailableError(
                         absl::StrCat("--out: ", temporary, ": ", std::strerror(errno)));
      };
      const std::string header = NpyHeader(ids.size(), vocab);
      absl::Status status = write(header.data(), header.size());
      Progress progress("logits", ids.size());
      if (status.ok()) {
        status = ForEachLogits(*model, ids, 0, [&](int first, int n, const float* rows) {
          progress.Update(static_cast<uint64_t>(first));
          return write(rows, static_cast<size_t>(n) * vocab * sizeof(float));
        });
      }
      if (status.ok() && std::fflush(file.get()) != 0)
        status = absl::UnavailableError(temporary + ": cannot be written");
      if (status.ok() && std::rename(temporary.c_str(), o->out.c_str()) != 0) {
        status =
            absl::UnavailableError(absl::StrCat("--out: ", o->out, ": ", std::strerror(errno)));
      }
      if (!status.ok()) std::remove(temporary.c_str());
      return status;
    };
  });
}

}  // namespace tutti::cli
