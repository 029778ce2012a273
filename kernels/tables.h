// The KernelTables of this build, one per file of kernels/cpu and the reference.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace tutti::kernels {

// No check of the machine: registry.cc does that.
const KernelTable& Avx2Table();
const KernelTable& AvxVnniTable();
const KernelTable& Avx512Table();
const KernelTable& AmxTable();
const KernelTable& NeonTable();
const KernelTable& NeonDotprodTable();

// A table that this machine can run, not yet compared with the reference.
struct RunnableTable {
  std::string_view name;  // of the instruction set, and what more the table needs: "neon_dotprod"
  const KernelTable* table;
};
// All of them, best first. KernelsFor() gives the first of a set whose self-check passes, so a test
// that must see a wrong table takes it from here.
std::vector<RunnableTable> RunnableTables();

}  // namespace tutti::kernels
