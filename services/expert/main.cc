// tutti-expert: see options.cc for the flags, README.md for the rest.
#include "services/expert/expert.h"
#include "shared/rpc/worker_program.h"

int main(int argc, char** argv) {
  using namespace tutti::expert;
  return tutti::rpc::RunWorkerProgram<Expert>(argc, argv, "tutti-expert", ExpertOptions(),
                                              ParseOptions);
}
