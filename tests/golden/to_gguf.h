// Converts a golden Hugging Face folder to a GGUF image as llama.cpp's convert_hf_to_gguf.py does
// it: its keys, its tensor names, its reordered q and k rows (llama), its 1 + w gains (Gemma), its
// turned matrices (GPT-2).
#pragma once

#include <string>

#include "shared/tensor/dtype.h"

namespace tutti::golden {

// `arch`: the GGUF architecture to write. `matrices`: the type that matrices of the blocks are
// stored in. REQUIRES: the folder is one of the golden sets.
std::string ToGguf(const std::string& folder, const std::string& arch,
                   DType matrices = DType::kF32);

}  // namespace tutti::golden
