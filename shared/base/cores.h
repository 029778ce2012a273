// Which cores this process may use, and which one a thread runs on. A core is its index among those
// that the calling thread may use.
#pragma once

namespace tutti {

// At least 1.
int UsableCores();
// What an option for a number of threads means: 0 is one for each core.
inline int ThreadsOrCores(int threads) { return threads > 0 ? threads : UsableCores(); }
// Of the calling thread, now.
int CurrentCore();

// Binds the calling thread to a core, wrapping round. Does nothing where the system does not let
// it.
void PinThreadTo(int core);
// Moves the calling thread there, wrapping round; the scheduler may move it on. A thread that is
// woken mostly stays where it was, so this lasts while that core is free at such times.
void MoveThreadTo(int core);

}  // namespace tutti
