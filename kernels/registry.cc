// Which instruction sets this build and this machine have; the only place with `#if` for them.
#include <atomic>
#include <string>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "shared/base/floating_point.h"
#include "shared/base/strings.h"

namespace tutti::kernels {
namespace {

constexpr Isa kAll[] = {Isa::kAvx512, Isa::kAvx2, Isa::kNeon, Isa::kReference};  // best first

std::atomic<const KernelTable*> g_selected{nullptr};

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
  if (isa == Isa::kReference) return &reference::Table();
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
      return absl::FailedPreconditionError("instruction set '" + std::string(name) +
                                           "' is not in this build or not on this machine");
    }
    g_selected.store(table, std::memory_order_release);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("unknown instruction set '" + Printable(name) +
                                    "': use auto, reference, avx2, avx512 or neon");
}

void SetFloatingPointMode() { SetStrictFloatingPoint(); }

}  // namespace tutti::kernels
