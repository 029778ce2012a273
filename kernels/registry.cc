// Which instruction sets this build and this machine have; the only place with `#if` for them.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "kernels/self_check.h"
#include "kernels/tables.h"
#include "shared/base/floating_point.h"
#include "shared/base/status.h"
#include "shared/base/strings.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tutti::kernels {
namespace {

constexpr Isa kAll[] = {Isa::kAmx,  Isa::kAvx512, Isa::kAvxVnni,
                        Isa::kAvx2, Isa::kNeon,   Isa::kReference};  // best first

std::atomic<const KernelTable*> g_selected{nullptr};

// The table of `isa` whose bits are the reference's; a line on stderr for each that differs.
const KernelTable* FirstChecked(Isa isa) {
  for (const RunnableTable& candidate : RunnableTables()) {
    if (candidate.table->isa != isa) continue;
    if (isa == Isa::kReference) return candidate.table;
    const std::string differing = SelfCheck(*candidate.table);
    if (differing.empty()) return candidate.table;
    std::fprintf(
        stderr,
        "tutti: the %s kernels give other bits than the reference here (%s); not using them\n",
        std::string(candidate.name).c_str(), differing.c_str());
  }
  return nullptr;
}

template <Isa isa>
const KernelTable* Checked() {
  static const KernelTable* const table = FirstChecked(isa);
  return table;
}

const KernelTable* Best() {
  for (Isa isa : kAll) {
    if (const KernelTable* table = KernelsFor(isa)) return table;
  }
  return &reference::Table();
}

absl::StatusOr<const KernelTable*> TableOf(std::string_view name) {
  for (Isa isa : kAll) {
    if (name != IsaName(isa)) continue;
    if (const KernelTable* table = KernelsFor(isa)) return table;
    return absl::FailedPreconditionError(
        "instruction set '" + std::string(name) +
        "' is not in this build or not on this machine, or failed its self-check");
  }
  return absl::InvalidArgumentError("unknown instruction set '" + Printable(name) +
                                    "': use auto, reference, avx2, avx_vnni, avx512, amx or neon");
}

// What serves where nothing else was asked for: that of the environment, or the best.
absl::StatusOr<const KernelTable*> Default() {
  const char* const name = std::getenv("TUTTI_CPU");
  if (name == nullptr || *name == '\0' || std::string_view(name) == "auto") return Best();
  auto table = TableOf(name);
  if (!table.ok()) return Annotate(table.status(), "TUTTI_CPU");
  return table;
}

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know it.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// Nor this.
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 4) != 0;
}

// Int8 tiles of the machine, which the system must let the process use: their 8 KB of state are
// more than every thread has room for. A process asks once, for all its threads.
bool MayUseAmx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTile) == 0 ||
      (edx & kInt8) == 0) {
    return false;
  }
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, Linux 5.16
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avx_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
    case Isa::kNeon:
      return "neon";
  }
  return "unknown";
}

std::vector<RunnableTable> RunnableTables() {
  std::vector<RunnableTable> out;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && MayUseAmx()) out.push_back({"amx", &AmxTable()});
  if (avx512) out.push_back({"avx512", &Avx512Table()});
  if (avx2 && HasAvxVnni()) out.push_back({"avx_vnni", &AvxVnniTable()});
  if (avx2) out.push_back({"avx2", &Avx2Table()});
#elif defined(__aarch64__)
  const unsigned long has = getauxval(AT_HWCAP);
  const unsigned long armv8_2 =
      HWCAP_ATOMICS | HWCAP_ASIMDRDM;  // what the compiler may use besides
  const unsigned long dotprod = HWCAP_ASIMDDP | armv8_2;
  if ((has & dotprod) == dotprod) out.push_back({"neon_dotprod", &NeonDotprodTable()});
  if ((has & HWCAP_ASIMD) != 0) out.push_back({"neon", &NeonTable()});
#endif
  out.push_back({"reference", &reference::Table()});
  // A compiler that lacks an instruction set leaves its table empty.
  std::erase_if(out, [](const RunnableTable& t) { return t.table->quantize_rows == nullptr; });
  return out;
}

const KernelTable* KernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return Checked<Isa::kReference>();
    case Isa::kAvx2:
      return Checked<Isa::kAvx2>();
    case Isa::kAvxVnni:
      return Checked<Isa::kAvxVnni>();
    case Isa::kAvx512:
      return Checked<Isa::kAvx512>();
    case Isa::kAmx:
      return Checked<Isa::kAmx>();
    case Isa::kNeon:
      return Checked<Isa::kNeon>();
  }
  return nullptr;
}

const KernelTable& Kernels() {
  const KernelTable* table = g_selected.load(std::memory_order_acquire);
  if (table == nullptr) {
    const auto found = Default();
    if (!found.ok()) {  // of who starts the process, and never of a request
      std::fprintf(stderr, "%s\n", found.status().ToString().c_str());
      std::abort();
    }
    table = *found;
    g_selected.store(table, std::memory_order_release);
  }
  return *table;
}

absl::Status SelectIsa(std::string_view name) {
  TUTTI_ASSIGN_OR_RETURN(const KernelTable* table, name == "auto" ? Default() : TableOf(name));
  g_selected.store(table, std::memory_order_release);
  return absl::OkStatus();
}

void UseKernelsForTesting(const KernelTable* table) {
  g_selected.store(table, std::memory_order_release);  // nullptr: chosen again at the next use
}

void SetFloatingPointMode() { SetStrictFloatingPoint(); }

}  // namespace tutti::kernels
