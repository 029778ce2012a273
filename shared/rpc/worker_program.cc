#include "shared/rpc/worker_program.h"

#include <CLI/CLI.hpp>
#include <iostream>

namespace tutti::rpc {

absl::Status FlagInRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(flag) + ": " + std::to_string(value) +
                                    " is not in [" + std::to_string(low) + ", " +
                                    std::to_string(high) + "]");
}

bool ParseFlags(CLI::App* app, int argc, char** argv, const std::function<absl::Status()>& check,
                int* exit_code) {
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    *exit_code = app->exit(e);
    return false;
  }
  if (const absl::Status status = check(); !status.ok()) {
    *exit_code = FailProgram(app->get_name(), status, 2);
    return false;
  }
  return true;
}

int FailProgram(const std::string& name, const absl::Status& status, int exit_code) {
  std::cerr << name << ": " << status.message() << "\n";
  return exit_code;
}

}  // namespace tutti::rpc
