// tutti-target: see options.cc for the flags, README.md for the rest.
#include <iostream>

#include "services/target/options.h"
#include "services/target/target.h"
#include "shared/rpc/server.h"

int main(int argc, char** argv) {
  tutti::rpc::BlockShutdownSignals();
  tutti::target::TargetOptions options;
  int exit_code = 0;
  if (!tutti::target::ParseOptions(argc, argv, &options, &exit_code)) return exit_code;
  if (absl::Status status = tutti::rpc::InitLogFromOptions("tutti-target", options.worker.service);
      !status.ok()) {
    std::cerr << "tutti-target: " << status.message() << "\n";
    return 2;
  }
  auto target = tutti::target::Target::Start(options);
  if (!target.ok()) {
    std::cerr << "tutti-target: " << target.status().message() << "\n";
    return 1;
  }
  if (absl::Status status = (*target)->worker().Run(); !status.ok()) {
    std::cerr << "tutti-target: " << options.model << ": " << status.message() << "\n";
    tutti::rpc::ExitNow(1);
  }
  tutti::rpc::ExitNow(0);
}
