// tutti-tokenizer: see ParseOptions for the flags, README.md for the rest.
#include <iostream>

#include "services/tokenizer/tokenizer_worker.h"
#include "shared/rpc/server.h"

int main(int argc, char** argv) {
  tutti::rpc::BlockShutdownSignals();
  tutti::tokenizer_service::TokenizerOptions options;
  int exit_code = 0;
  if (!tutti::tokenizer_service::ParseOptions(argc, argv, &options, &exit_code)) return exit_code;
  if (absl::Status status =
          tutti::rpc::InitLogFromOptions("tutti-tokenizer", options.worker.service);
      !status.ok()) {
    std::cerr << "tutti-tokenizer: " << status.message() << "\n";
    return 2;
  }
  auto worker = tutti::tokenizer_service::TokenizerWorker::Start(options);
  if (!worker.ok()) {
    std::cerr << "tutti-tokenizer: " << worker.status().message() << "\n";
    return 1;
  }
  if (absl::Status status = (*worker)->worker().Run(); !status.ok()) {
    std::cerr << "tutti-tokenizer: " << options.model << ": " << status.message() << "\n";
    tutti::rpc::ExitNow(1);
  }
  tutti::rpc::ExitNow(0);
}
