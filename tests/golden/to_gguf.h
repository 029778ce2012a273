// Converts a golden Hugging Face folder to a GGUF image as llama.cpp's convert_hf_to_gguf.py does
// it: its keys, its tensor names, its reordered q and k rows (llama), its 1 + w gains (Gemma), its
// turned matrices (GPT-2), its kv_b cut in two (DeepSeek).
#pragma once

#include <string>

#include "shared/tensor/dtype.h"

namespace tutti::golden {

// `arch`: the GGUF architecture to write. `matrices`: the type that matrices of the blocks are
// stored in. `split_latent`: DeepSeek as converters write it since 2025, else as before.
// REQUIRES: the folder is one of the golden sets.
std::string ToGguf(const std::string& folder, const std::string& arch, DType matrices = DType::kF32,
                   bool split_latent = false);

}  // namespace tutti::golden
