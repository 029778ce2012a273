// W3C trace context (the `traceparent` header): carried through every hop, so that a tracing system
// can join what the services log about one request.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tutti::telemetry {

inline constexpr char kTraceparentKey[] = "traceparent";  // HTTP header and gRPC metadata key

struct TraceContext {
  uint64_t trace_hi = 0, trace_lo = 0;  // 128-bit trace id, not all zero
  uint64_t span = 0;                    // of the caller, not zero
  uint8_t flags = 0;                    // bit 0: sampled

  std::string TraceId() const;  // 32 lower-case hex digits
  bool operator==(const TraceContext&) const = default;
};

// "00-<32 hex>-<16 hex>-<2 hex>"; later versions may be longer. nullopt for anything else: as the
// standard asks, a bad header starts a new trace and is no error.
std::optional<TraceContext> ParseTraceparent(std::string_view header);
std::string MakeTraceparent(const TraceContext& context);

// A new trace (sampled) and a new span of the same trace, with random ids (not secret, not seeded).
TraceContext NewTrace();
TraceContext ChildSpan(const TraceContext& parent);

// What a hop does with the header it got: the child span of a good one, else a new trace.
TraceContext ContinueTrace(std::string_view header);

}  // namespace tutti::telemetry
