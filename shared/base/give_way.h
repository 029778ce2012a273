// Waiting for another process of this machine, for a while without sleeping.
#pragma once

#include <chrono>
#include <thread>

namespace tutti {

// A thread that sleeps is woken in 5 to 60 us: the longest where its core went idle meanwhile and
// must be called back. A thread that spins keeps its core from those it waits for. One that yields
// has neither fault: others run at once, and with none to run the core stays awake.
//
//   while (!done() && !give_way.Over()) give_way.Yield();      // then sleep
class GiveWay {
 public:
  static constexpr int kDefaultUs = 200;  // about two layers of a small model

  explicit GiveWay(int us)
      : until_(std::chrono::steady_clock::now() + std::chrono::microseconds(us)) {}
  bool Over() const { return std::chrono::steady_clock::now() >= until_; }
  void Yield() const { std::this_thread::yield(); }

 private:
  std::chrono::steady_clock::time_point until_;
};

}  // namespace tutti
