// What the commands need of a terminal.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::cli {

bool IsTerminal(int fd);
// The escape sequence when `fd` is a terminal (and NO_COLOR is not set), else "".
const char* Style(int fd, const char* escape);

// A progress bar on stderr; silent when that is no terminal. Erases itself at the end.
class Progress {
 public:
  Progress(std::string label, uint64_t total);
  ~Progress();
  // `note` stands behind the bar. Draws at most ten times a second.
  void Update(uint64_t done, std::string_view note = "");

 private:
  const std::string label_;
  const uint64_t total_;
  const bool visible_;
  int64_t started_us_, drawn_us_ = 0;
};

// While it lives, Ctrl-C (SIGINT) sets a flag instead of ending the process.
class InterruptFlag {
 public:
  InterruptFlag();
  ~InterruptFlag();
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;
  bool raised() const;
  void Clear();
  static const std::atomic<bool>& flag();
  // Readable while the flag is set: the signal may be delivered to any thread, so that a wait for
  // input is not always interrupted by it. -1 before the first InterruptFlag.
  static int raised_fd();
};

int64_t NowUs();  // steady
int64_t UnixSeconds();

}  // namespace tutti::cli
