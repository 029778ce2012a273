// Which instruction sets this build and this machine have; the only place with `#if` for them.
#include <atomic>
#include <cstdio>
#include <string>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "kernels/self_check.h"
#include "kernels/tables.h"
#include "shared/base/floating_point.h"
#include "shared/base/strings.h"

namespace tutti::kernels {
namespace {

constexpr Isa kAll[] = {Isa::kAvx512, Isa::kAvx2, Isa::kNeon, Isa::kReference};  // best first

std::atomic<const KernelTable*> g_selected{nullptr};

#if defined(__x86_64__)
bool MachineHasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool MachineHasAvx512() {
  return MachineHasAvx2() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#else
bool MachineHasAvx2() { return false; }
bool MachineHasAvx512() { return false; }
#endif

// `table` when its bits are the reference's, else nullptr and a line on stderr.
const KernelTable* Checked(const KernelTable& table) {
  const std::string differing = SelfCheck(table);
  if (differing.empty()) return &table;
  std::fprintf(
      stderr,
      "tutti: the %s kernels give other bits than the reference here (%s); not using them\n",
      std::string(IsaName(table.isa)).c_str(), differing.c_str());
  return nullptr;
}

const KernelTable* Best() {
  for (Isa isa : kAll) {
    if (const KernelTable* table = KernelsFor(isa)) return table;
  }
  return &reference::Table();
}

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
  }
  return "unknown";
}

const KernelTable* KernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return &reference::Table();
    case Isa::kAvx2: {
      if (!MachineHasAvx2()) return nullptr;
      static const KernelTable* const table = Checked(Avx2Table());
      return table;
    }
    case Isa::kAvx512: {
      if (!MachineHasAvx512()) return nullptr;
      static const KernelTable* const table = Checked(Avx512Table());
      return table;
    }
    case Isa::kNeon:
      return nullptr;
  }
  return nullptr;
}

const KernelTable& Kernels() {
  const KernelTable* table = g_selected.load(std::memory_order_acquire);
  if (table == nullptr) {
    table = Best();
    g_selected.store(table, std::memory_order_release);
  }
  return *table;
}

absl::Status SelectIsa(std::string_view name) {
  if (name == "auto") {
    g_selected.store(Best(), std::memory_order_release);
    return absl::OkStatus();
  }
  for (Isa isa : kAll) {
    if (name != IsaName(isa)) continue;
    const KernelTable* table = KernelsFor(isa);
    if (table == nullptr) {
      return absl::FailedPreconditionError(
          "instruction set '" + std::string(name) +
          "' is not in this build or not on this machine, or failed its self-check");
    }
    g_selected.store(table, std::memory_order_release);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("unknown instruction set '" + Printable(name) +
                                    "': use auto, reference, avx2, avx512 or neon");
}

void UseKernelsForTesting(const KernelTable* table) {
  g_selected.store(table != nullptr ? table : Best(), std::memory_order_release);
}

void SetFloatingPointMode() { SetStrictFloatingPoint(); }

}  // namespace tutti::kernels
