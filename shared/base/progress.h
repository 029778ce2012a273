// How a long computation says that it gets on, so that a watcher on another thread can tell slow
// from hung.
//
// Whoever runs the computation installs a listener for its thread; code below calls NoteProgress
// between parts that take milliseconds (a layer, a turn of a wait) and need not know who listens.
#pragma once

namespace tutti {

class ProgressListener {
 public:
  virtual ~ProgressListener() = default;
  // From the thread that computes; must be cheap.
  virtual void OnProgress() = 0;
};

namespace progress_internal {
inline thread_local ProgressListener* listener = nullptr;
}

// Of this thread, until changed; null: nobody. Borrowed.
inline void SetProgressListener(ProgressListener* listener) {
  progress_internal::listener = listener;
}

inline void NoteProgress() {
  if (progress_internal::listener != nullptr) progress_internal::listener->OnProgress();
}

}  // namespace tutti
