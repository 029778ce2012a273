// Structured log lines on stderr: one JSON object a line, or `key=value` text on a terminal.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "shared/base/status.h"

namespace tutti::telemetry {

enum class Level { kDebug, kInfo, kWarning, kError };
using LogFields = std::initializer_list<std::pair<std::string_view, std::string>>;

// Set once at start, before other threads log: the service's name stands in every line; lines under
// `min_level` are dropped.
void InitLog(std::string_view service, Level min_level, bool json);

// Log(Level::kInfo, "target/admit", {{"request_id", id}, {"prompt_tokens", "12"}}). `event` is a
// stage name of docs/life-of-a-token.md or a short phrase. Thread-safe; one write per line.
void Log(Level level, std::string_view event, LogFields fields = {});

// Whether a line of that level is written: ask before building costly fields.
bool LogEnabled(Level level);

// "debug", "info", "warning", "error". Errors: INVALID_ARGUMENT
absl::StatusOr<Level> ParseLevel(std::string_view name);

// The line that Log writes, with its newline. Control characters, quotes and bytes that are not
// UTF-8 are escaped, so hostile text cannot forge a line.
std::string FormatLogLine(Level level, std::string_view event, LogFields fields);

}  // namespace tutti::telemetry
