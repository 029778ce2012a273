// Structured log lines on stderr: one JSON object a line, or `key=value` text on a terminal.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace tutti::telemetry {

enum class Level { kDebug, kInfo, kWarning, kError };

// Set once at start: the service's name stands in every line; lines under `min_level` are dropped.
void InitLog(std::string_view service, Level min_level, bool json);

// Log(Level::kInfo, "target/admit", {{"request_id", id}, {"prompt_tokens", "12"}}). `event` is a
// stage name of docs/life-of-a-token.md or a short phrase. Thread-safe; one write per line.
void Log(Level level, std::string_view event,
         std::initializer_list<std::pair<std::string_view, std::string>> fields = {});

}  // namespace tutti::telemetry
