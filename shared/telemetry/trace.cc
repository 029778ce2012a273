#include "shared/telemetry/trace.h"

#include <random>

#include "shared/base/hash.h"

namespace tutti::telemetry {
namespace {

uint64_t RandomNonZero() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  uint64_t value = 0;
  while (value == 0) value = generator();
  return value;
}

// Lower-case hex only, as the standard asks.
bool ParseByte(std::string_view hex, uint8_t* value) {
  unsigned v = 0;
  for (const char c : hex) {
    if (c >= '0' && c <= '9') {
      v = v * 16 + static_cast<unsigned>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      v = v * 16 + static_cast<unsigned>(c - 'a' + 10);
    } else {
      return false;
    }
  }
  *value = static_cast<uint8_t>(v);
  return true;
}

}  // namespace

std::string TraceContext::TraceId() const { return Hex64(trace_hi) + Hex64(trace_lo); }

std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  TraceContext context;
  uint8_t version = 0;
  if (header.size() < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-') {
    return std::nullopt;
  }
  if (!ParseByte(header.substr(0, 2), &version) || version == 0xFF) return std::nullopt;
  if (version == 0 ? header.size() != 55 : header.size() > 55 && header[55] != '-') {
    return std::nullopt;
  }
  if (!ParseHex64(header.substr(3, 16), &context.trace_hi) ||
      !ParseHex64(header.substr(19, 16), &context.trace_lo) ||
      !ParseHex64(header.substr(36, 16), &context.span) ||
      !ParseByte(header.substr(53, 2), &context.flags)) {
    return std::nullopt;
  }
  if ((context.trace_hi | context.trace_lo) == 0 || context.span == 0) return std::nullopt;
  return context;
}

std::string MakeTraceparent(const TraceContext& context) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "00-" + context.TraceId() + "-" + Hex64(context.span) + "-";
  out.push_back(kHex[context.flags >> 4]);
  out.push_back(kHex[context.flags & 15]);
  return out;
}

TraceContext NewTrace() { return {RandomNonZero(), RandomNonZero(), RandomNonZero(), 1}; }

TraceContext ChildSpan(const TraceContext& parent) {
  TraceContext child = parent;
  child.span = RandomNonZero();
  return child;
}

TraceContext ContinueTrace(std::string_view header) {
  const auto parent = ParseTraceparent(header);
  return parent.has_value() ? ChildSpan(*parent) : NewTrace();
}

}  // namespace tutti::telemetry
