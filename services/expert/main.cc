// tutti-expert: see options.cc for the flags, README.md for the rest.
#include <iostream>

#include "services/expert/expert.h"
#include "shared/rpc/server.h"

int main(int argc, char** argv) {
  tutti::rpc::BlockShutdownSignals();
  tutti::expert::ExpertOptions options;
  int exit_code = 0;
  if (!tutti::expert::ParseOptions(argc, argv, &options, &exit_code)) return exit_code;
  if (absl::Status status = tutti::rpc::InitLogFromOptions("tutti-expert", options.worker.service);
      !status.ok()) {
    std::cerr << "tutti-expert: " << status.message() << "\n";
    return 2;
  }
  auto expert = tutti::expert::Expert::Start(options);
  if (!expert.ok()) {
    std::cerr << "tutti-expert: " << expert.status().message() << "\n";
    return 1;
  }
  if (absl::Status status = (*expert)->worker().Run(); !status.ok()) {
    std::cerr << "tutti-expert: " << options.model << ": " << status.message() << "\n";
    tutti::rpc::ExitNow(1);
  }
  tutti::rpc::ExitNow(0);
}
