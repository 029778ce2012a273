// Lines typed by a person: editing, history and pasted text of several lines (libedit).
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace tutti::cli {

struct LineEditorOptions {
  std::string prompt;              // may hold escape sequences of style, each between two \1
  std::string history_file;        // "": nothing is kept after the process
  std::vector<std::string> words;  // completed by Tab at a line's begin
};

// Reads stdin: with editing when stdin and stdout are terminals, else plain lines.
// Keys are those of emacs, or as ~/.editrc says: arrows, Ctrl-A, Ctrl-E, Ctrl-W, Ctrl-R (search in
// history). Alt-Enter begins a new line within the text; a paste keeps its line ends.
// The history (1,000 lines, no line twice in a row) is a file that only its owner reads.
// REQUIRES: an InterruptFlag lives (terminal.h); one editor in a process.
class LineEditor {
 public:
  enum class Outcome { kLine, kInterrupted, kEnd };

  explicit LineEditor(LineEditorOptions options);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // *line: without its end. kInterrupted: Ctrl-C; the next call begins with an empty line. kEnd:
  // Ctrl-D, the end of stdin, or an error of reading.
  Outcome Read(std::string* line);

  class Editing;

 private:
  std::unique_ptr<Editing> editing_;  // null: plain lines
};

// Where the history of `name` lives: XDG_STATE_HOME, else ~/.local/state, then tutti/NAME_history.
// Makes the folder. "" when there is no home or the folder cannot be made.
std::string HistoryPath(const std::string& name);

}  // namespace tutti::cli
