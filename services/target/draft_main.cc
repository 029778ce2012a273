// tutti-draft: a decoder that runs ahead of targets. See options.cc for the flags, README.md for
// the rest.
#include "services/target/target.h"
#include "shared/rpc/worker_program.h"

int main(int argc, char** argv) {
  using namespace tutti::target;
  TargetOptions options;
  options.is_draft = true;
  return tutti::rpc::RunWorkerProgram<Target>(argc, argv, "tutti-draft", options, ParseOptions);
}
