#include "shared/base/cores.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>

namespace tutti {
namespace {

bool Usable(cpu_set_t* set) {
  return sched_getaffinity(0, sizeof(*set), set) == 0 && CPU_COUNT(set) > 0;
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  return Usable(&set) ? CPU_COUNT(&set) : 1;
}

int CurrentCore() {
  cpu_set_t set;
  const int cpu = sched_getcpu();
  if (cpu < 0 || !Usable(&set)) return 0;
  int index = 0;
  for (int c = 0; c < std::min(cpu, CPU_SETSIZE); ++c) index += CPU_ISSET(c, &set) ? 1 : 0;
  return index;
}

void PinThreadTo(int core) {
  cpu_set_t set;
  if (!Usable(&set)) return;
  int index = core % CPU_COUNT(&set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set) || index-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
}

void MoveThreadTo(int core) {
  cpu_set_t set;
  if (!Usable(&set)) return;
  PinThreadTo(core);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

}  // namespace tutti
