// tutti-expert with a fault in its rows, for tests: as a machine whose memory goes bad.
//   tutti-expert-faulty --fault-after-rows N (the flags of tutti-expert)
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "services/expert/expert.h"
#include "shared/rpc/worker_program.h"

int main(int argc, char** argv) {
  using namespace tutti::expert;
  static std::atomic<int64_t> good_rows{0};
  std::vector<char*> args;
  for (int i = 0; i < argc; ++i) {
    if (std::strcmp(argv[i], "--fault-after-rows") == 0 && i + 1 < argc) {
      good_rows = std::atoll(argv[++i]);
    } else {
      args.push_back(argv[i]);
    }
  }
  ExpertOptions options;
  options.row_fault = [](int, int, std::span<float> row) {
    if (--good_rows < 0) row[row.size() / 2] += 0.125f;
  };
  return tutti::rpc::RunWorkerProgram<Expert>(static_cast<int>(args.size()), args.data(),
                                              "tutti-expert-faulty", options, ParseOptions);
}
