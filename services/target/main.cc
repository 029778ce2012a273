// tutti-target: see options.cc for the flags, README.md for the rest.
#include "services/target/target.h"
#include "shared/rpc/worker_program.h"

int main(int argc, char** argv) {
  using namespace tutti::target;
  return tutti::rpc::RunWorkerProgram<Target>(argc, argv, "tutti-target", TargetOptions(),
                                              ParseOptions);
}
