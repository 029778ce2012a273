// Runs a kernel table against the reference on small inputs, a few milliseconds in all. A table
// whose bits differ (a compiler's mistake, a faulty or badly emulated machine) must not serve: see
// registry.cc.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace tutti::kernels {

// The names of the entries whose bits differ from the reference, separated by commas; empty when
// all agree.
std::string SelfCheck(const KernelTable& table);

}  // namespace tutti::kernels
