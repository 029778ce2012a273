#include "shared/telemetry/log.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "shared/base/strings.h"

namespace tutti::telemetry {
namespace {

struct Config {
  std::string service = "tutti";
  Level min_level = Level::kInfo;
  bool json = false;
};
Config& config() {
  static Config* c = new Config;  // never destroyed: threads may log until the very end
  return *c;
}

std::string_view LevelName(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
  }
  return "?";
}

// UTC, RFC 3339 with milliseconds.
std::string Timestamp() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char text[40];
  const size_t n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
  snprintf(text + n, sizeof(text) - n, ".%03ldZ", now.tv_nsec / 1000000);
  return text;
}

void AppendJson(std::string_view s, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  size_t begin = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    const auto c = static_cast<unsigned char>(s[i]);
    if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) continue;
    out->append(s.substr(begin, i - begin));
    begin = i + 1;
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out->append("\\n");
    } else {
      out->append("\\u00").append(1, kHex[c >> 4]).append(1, kHex[c & 15]);
    }
  }
  out->append(s.substr(begin));
  out->push_back('"');
}

// Bytes that are not UTF-8 would make the line no JSON.
void AppendJsonChecked(std::string_view s, std::string* out) {
  if (IsValidUtf8(s)) {
    AppendJson(s, out);
  } else {
    AppendJson(Printable(s, s.size() * 4), out);
  }
}

void AppendText(std::string_view value, std::string* out) {
  const bool plain = !value.empty() && value.find_first_of(" \t\n\r\"=") == std::string_view::npos;
  if (plain) {
    out->append(Printable(value, value.size() * 4));
  } else {
    AppendJsonChecked(value, out);
  }
}

}  // namespace

void InitLog(std::string_view service, Level min_level, bool json) {
  config() = {std::string(service), min_level, json};
}

bool LogEnabled(Level level) { return level >= config().min_level; }

absl::StatusOr<Level> ParseLevel(std::string_view name) {
  for (const Level level : {Level::kDebug, Level::kInfo, Level::kWarning, Level::kError}) {
    if (name == LevelName(level)) return level;
  }
  return absl::InvalidArgumentError("log level \"" + Printable(name) +
                                    "\" is not one of debug, info, warning, error");
}

std::string FormatLogLine(Level level, std::string_view event, LogFields fields) {
  const Config& c = config();
  std::string line;
  line.reserve(256);
  if (c.json) {
    line.append("{\"time\":\"").append(Timestamp()).append("\",\"level\":\"");
    line.append(LevelName(level)).append("\",\"service\":");
    AppendJsonChecked(c.service, &line);
    line.append(",\"event\":");
    AppendJsonChecked(event, &line);
    for (const auto& [key, value] : fields) {
      line.push_back(',');
      AppendJsonChecked(key, &line);
      line.push_back(':');
      AppendJsonChecked(value, &line);
    }
    line.push_back('}');
  } else {
    line.append(Timestamp()).append(" ").append(LevelName(level)).append(" ");
    line.append(c.service).append(" ").append(Printable(event, event.size() * 4));
    for (const auto& [key, value] : fields) {
      line.append(" ").append(key).append("=");
      AppendText(value, &line);
    }
  }
  line.push_back('\n');
  return line;
}

void Log(Level level, std::string_view event, LogFields fields) {
  if (!LogEnabled(level)) return;
  const std::string line = FormatLogLine(level, event, fields);
  [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace tutti::telemetry
