// tutti-tokenizer: see ParseOptions for the flags, README.md for the rest.
#include "services/tokenizer/tokenizer_worker.h"
#include "shared/rpc/worker_program.h"

int main(int argc, char** argv) {
  using namespace tutti::tokenizer_service;
  return tutti::rpc::RunWorkerProgram<TokenizerWorker>(argc, argv, "tutti-tokenizer",
                                                       TokenizerOptions(), ParseOptions);
}
