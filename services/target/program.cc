#include <iostream>

#include "services/target/options.h"
#include "services/target/target.h"
#include "shared/rpc/server.h"

namespace tutti::target {

int RunProgram(int argc, char** argv, bool is_draft) {
  rpc::BlockShutdownSignals();
  const std::string name = is_draft ? "tutti-draft" : "tutti-target";
  TargetOptions options;
  options.is_draft = is_draft;
  int exit_code = 0;
  if (!ParseOptions(argc, argv, &options, &exit_code)) return exit_code;
  if (absl::Status status = rpc::InitLogFromOptions(name, options.worker.service); !status.ok()) {
    std::cerr << name << ": " << status.message() << "\n";
    return 2;
  }
  auto target = Target::Start(options);
  if (!target.ok()) {
    std::cerr << name << ": " << target.status().message() << "\n";
    return 1;
  }
  if (absl::Status status = (*target)->worker().Run(); !status.ok()) {
    std::cerr << name << ": " << options.model << ": " << status.message() << "\n";
    rpc::ExitNow(1);
  }
  rpc::ExitNow(0);
  return 0;
}

}  // namespace tutti::target
