#include "tools/cli/terminal.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "shared/base/clock.h"
#include "shared/base/strings.h"

namespace tutti::cli {
namespace {

std::atomic<bool> interrupted{false};
int interrupted_fd = -1;  // an eventfd; made once and kept
void OnInterrupt(int) {
  const int before = errno;
  interrupted.store(true);
  constexpr uint64_t kOne = 1;
  [[maybe_unused]] const auto written = ::write(interrupted_fd, &kOne, sizeof kOne);
  errno = before;
}
struct sigaction previous_action;

}  // namespace

bool IsTerminal(int fd) { return ::isatty(fd) == 1; }

const char* Style(int fd, const char* escape) {
  return IsTerminal(fd) && std::getenv("NO_COLOR") == nullptr ? escape : "";
}

int64_t NowUs() { return SteadyNowUs(); }

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Progress::Progress(std::string label, uint64_t total)
    : label_(std::move(label)),
      total_(std::max<uint64_t>(total, 1)),
      visible_(IsTerminal(2)),
      started_us_(NowUs()) {}

Progress::~Progress() {
  if (visible_ && drawn_us_ != 0) std::fputs("\r\033[K", stderr);
}

void Progress::Update(uint64_t done, std::string_view note) {
  const int64_t now = NowUs();
  if (!visible_ || now - drawn_us_ < 100'000) return;
  drawn_us_ = now;
  constexpr int kWidth = 24;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const int full = static_cast<int>(share * kWidth);
  std::string left;
  if (share > 0.02) {
    const auto seconds =
        static_cast<int64_t>(static_cast<double>(now - started_us_) / 1e6 * (1 - share) / share);
    left = absl::StrFormat(", %d:%02d left", seconds / 60, seconds % 60);
  }
  const std::string line =
      absl::StrFormat("%s [%s%s] %3.0f%%%s %s", label_, std::string(full, '#'),
                      std::string(kWidth - full, '-'), share * 100, left, ToAbsl(note));
  winsize size = {};
  const size_t columns = ::ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 ? size.ws_col : 80;
  std::fprintf(stderr, "\r\033[K%s", line.substr(0, columns - 1).c_str());
}

InterruptFlag::InterruptFlag() {
  if (interrupted_fd < 0) interrupted_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Clear();
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;  // without SA_RESTART: a read of the terminal returns
  ::sigaction(SIGINT, &action, &previous_action);
}
InterruptFlag::~InterruptFlag() { ::sigaction(SIGINT, &previous_action, nullptr); }
bool InterruptFlag::raised() const { return interrupted.load(); }
void InterruptFlag::Clear() {
  uint64_t count = 0;
  [[maybe_unused]] const auto read = ::read(interrupted_fd, &count, sizeof count);
  interrupted = false;
}
int InterruptFlag::raised_fd() { return interrupted_fd; }
const std::atomic<bool>& InterruptFlag::flag() { return interrupted; }

}  // namespace tutti::cli
