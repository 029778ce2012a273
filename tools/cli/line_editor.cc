#include "tools/cli/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <string_view>
#include <system_error>

#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

constexpr int kHistoryLines = 1000;
constexpr size_t kMaxPasteChars = 4 << 20;
constexpr wchar_t kReplacement = 0xFFFD;
constexpr std::wstring_view kPasteEnd = L"\033[201~";

void Write(const char* escape) {
  std::fputs(escape, stdout);
  std::fflush(stdout);
}

// Characters wider than a byte need a locale that has them.
void UseUtf8Locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

// The next byte of stdin. 1; 0: its end; -1: an error, or Ctrl-C.
int ReadByte(unsigned char* byte) {
  pollfd ready[] = {{.fd = 0, .events = POLLIN, .revents = 0},
                    {.fd = InterruptFlag::raised_fd(), .events = POLLIN, .revents = 0}};
  while (::poll(ready, 2, -1) < 0) {
    if (errno != EINTR) return -1;
  }
  return InterruptFlag::flag().load() ? -1 : static_cast<int>(::read(0, byte, 1));
}

// The next character, as libedit wants it: 1, 0 or -1 as above.
int ReadCharacter(EditLine* el, wchar_t* out) {
  unsigned char byte = 0;
  if (const int n = ReadByte(&byte); n != 1) return n;
  // A Ctrl-D that was typed before the line editor took over the terminal comes as 0.
  if (const LineInfoW* line = el_wline(el); byte == 0 && line->lastchar == line->buffer) {
    *out = 'D' & 0x1F;
    return 1;
  }
  const int more = byte < 0x80 ? 0 : byte < 0xC2 ? -1 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  if (more < 0 || byte > 0xF4) {
    *out = kReplacement;
    return 1;
  }
  uint32_t c = more == 0 ? byte : byte & (0x3F >> more);
  for (int i = 0; i < more; ++i) {
    if (const int n = ReadByte(&byte); n != 1) return n;
    if ((byte & 0xC0) != 0x80) {
      *out = kReplacement;
      return 1;
    }
    c = c << 6 | (byte & 0x3F);
  }
  *out = static_cast<wchar_t>(c);
  return 1;
}

// A terminal marks the begin and the end of what is pasted; the text goes into the line as it is.
unsigned char InsertPaste(EditLine* el, int) {
  std::wstring text;
  for (wchar_t c = 0; !text.ends_with(kPasteEnd);) {
    if (ReadCharacter(el, &c) != 1) return CC_ERROR;
    if (text.size() < kMaxPasteChars) text.push_back(c == L'\r' ? L'\n' : c);
  }
  text.resize(text.size() - kPasteEnd.size());
  while (text.ends_with(L'\n')) text.pop_back();
  for (wchar_t& c : text) {
    if (c < 0x20 && c != L'\n' && c != L'\t') c = kReplacement;
  }
  if (text.empty()) return CC_NORM;
  return el_winsertstr(el, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
}

unsigned char InsertNewline(EditLine* el, int) {
  return el_winsertstr(el, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

}  // namespace

class LineEditor::Editing {
 public:
  explicit Editing(LineEditorOptions options) : options_(std::move(options)) {
    UseUtf8Locale();
    el_ = el_init("tutti", stdin, stdout, stderr);
    if (el_ == nullptr) return;
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    if (!options_.history_file.empty())
      history(history_, &event, H_LOAD, options_.history_file.c_str());
    el_set(el_, EL_CLIENTDATA, this);
    el_set(el_, EL_EDITOR, "emacs");
    el_set(el_, EL_PROMPT_ESC, &Prompt, '\1');
    el_set(el_, EL_HIST, history, history_);
    el_wset(el_, EL_GETCFN, &ReadCharacter);
    el_set(el_, EL_ADDFN, "tutti-paste", "Insert pasted text", &InsertPaste);
    el_set(el_, EL_ADDFN, "tutti-newline", "Begin a new line", &InsertNewline);
    el_set(el_, EL_ADDFN, "tutti-complete", "Complete a command", &Complete);
    el_set(el_, EL_BIND, "\033[200~", "tutti-paste", nullptr);
    el_set(el_, EL_BIND, "\033\r", "tutti-newline", nullptr);
    el_set(el_, EL_BIND, "\033\n", "tutti-newline", nullptr);
    el_set(el_, EL_BIND, "\t", "tutti-complete", nullptr);
    el_set(el_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_set(el_, EL_BIND, "^W", "ed-delete-prev-word", nullptr);
    el_source(el_, nullptr);
  }
  ~Editing() {
    HistEvent event;
    if (history_ != nullptr && added_ && !options_.history_file.empty())
      history(history_, &event, H_SAVE, options_.history_file.c_str());
    if (el_ != nullptr) el_end(el_);
    if (history_ != nullptr) history_end(history_);
  }

  bool usable() const { return el_ != nullptr; }

  Outcome Read(std::string* line) {
    el_resize(el_);
    el_set(el_, EL_PREP_TERM, 1);
    Write("\033[?2004h");
    int count = 0;
    const char* text = el_gets(el_, &count);
    Write("\033[?2004l");
    if (text == nullptr || count <= 0) {
      el_reset(el_);
      return InterruptFlag::flag().load() ? Outcome::kInterrupted : Outcome::kEnd;
    }
    line->assign(text, static_cast<size_t>(count));
    if (line->ends_with('\n')) line->pop_back();
    if (line->find_first_not_of(" \t\n") != line->npos) {
      HistEvent event;
      history(history_, &event, H_ENTER, line->c_str());
      added_ = true;
    }
    return Outcome::kLine;
  }

 private:
  static Editing* Of(EditLine* el) {
    void* self = nullptr;
    el_get(el, EL_CLIENTDATA, &self);
    return static_cast<Editing*>(self);
  }
  static char* Prompt(EditLine* el) { return Of(el)->options_.prompt.data(); }

  // Adds what all words that begin as the line does have in common.
  static unsigned char Complete(EditLine* el, int) {
    const LineInfo* info = el_line(el);
    const std::string typed(info->buffer, info->cursor);
    std::string common;
    int found = 0;
    if (!typed.empty()) {
      for (const std::string& word : Of(el)->options_.words) {
        if (!word.starts_with(typed)) continue;
        if (found++ == 0) common = word;
        while (!word.starts_with(common)) common.pop_back();
      }
    }
    if (found == 0) return CC_REFRESH_BEEP;
    if (found == 1) common += ' ';
    const std::string rest = common.substr(typed.size());
    if (rest.empty()) return CC_REFRESH_BEEP;
    return el_insertstr(el, rest.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  LineEditorOptions options_;
  EditLine* el_ = nullptr;
  History* history_ = nullptr;
  bool added_ = false;
};

LineEditor::LineEditor(LineEditorOptions options) {
  if (!IsTerminal(0) || !IsTerminal(1)) return;
  editing_ = std::make_unique<Editing>(std::move(options));
  if (!editing_->usable()) editing_.reset();
}
LineEditor::~LineEditor() = default;

LineEditor::Outcome LineEditor::Read(std::string* line) {
  if (editing_ != nullptr) return editing_->Read(line);
  errno = 0;
  if (std::getline(std::cin, *line)) return Outcome::kLine;
  if (!InterruptFlag::flag().load()) return Outcome::kEnd;
  std::cin.clear();
  ::clearerr(stdin);
  return Outcome::kInterrupted;
}

std::string HistoryPath(const std::string& name) {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (state != nullptr && state[0] == '/') {
    folder = state;
  } else if (home != nullptr && home[0] == '/') {
    folder = std::filesystem::path(home) / ".local" / "state";
  } else {
    return "";
  }
  folder /= "tutti";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return "";
  ::chmod(folder.c_str(), 0700);
  return (folder / (name + "_history")).string();
}

}  // namespace tutti::cli
