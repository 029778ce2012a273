// Makes the KernelTable of an instruction set. No check of the machine: registry.cc does that.
#pragma once

#include "kernels/kernels.h"

namespace tutti::kernels {

const KernelTable& Avx2Table();
const KernelTable& Avx512Table();

}  // namespace tutti::kernels
