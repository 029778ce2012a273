#include "tools/cli/generation.h"

#include <cstdio>

#include "absl/strings/str_format.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {

std::string_view FinishName(store::FinishReason reason) {
  switch (reason) {
    case store::FinishReason::kEos:
      return "eos";
    case store::FinishReason::kStop:
      return "stop";
    case store::FinishReason::kLength:
      return "length";
    case store::FinishReason::kCancelled:
      return "cancelled";
    case store::FinishReason::kDeadline:
      return "deadline";
    case store::FinishReason::kError:
      return "error";
    case store::FinishReason::kNone:
      break;
  }
  return "none";
}

std::string SpeedLine(const GenerateResult& r) {
  const int64_t decode_us = r.total_us - r.first_token_us;
  std::string speed;
  if (r.usage.output_tokens > 1 && decode_us > 0) {
    speed = absl::StrFormat(", %.1f tok/s",
                            (r.usage.output_tokens - 1) * 1e6 / static_cast<double>(decode_us));
  }
  return absl::StrFormat("%d tokens%s, first after %.2f s, seed %d", r.usage.output_tokens, speed,
                         static_cast<double>(r.first_token_us) / 1e6, r.seed);
}

void PrintModelText(std::string_view text) {
  if (!IsTerminal(1)) {
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    for (const char c : text) {
      const auto b = static_cast<unsigned char>(c);
      std::fputc((b < 0x20 && c != '\n' && c != '\t') || b == 0x7F ? '?' : c, stdout);
    }
  }
  std::fflush(stdout);
}

}  // namespace tutti::cli
