// Which tensor of a model gets which type.
//
//   token_embd.weight, output.weight   the embedding type: Q8_0 where the model's type is smaller
//                                      (these rows are looked up or scored one by one, and errors
//                                      in them reach every token), else the model's type
//   other matrices                     the model's type
//   vectors (norms, biases), expert    F32: they are small, and what they scale is large
//   routers (ffn_gate_inp.weight) and
//   position tables (position_embd.weight)
//
// Blocks run along rows, so a row that is no multiple of 256 has no K type. It gets the type of 32
// of about the same size: Q4_K becomes Q5_0, Q5_K Q5_1, Q6_K Q8_0. A row that is no multiple of 32
// becomes F16. A tensor that has its type already is copied, bit for bit.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "shared/tensor/dtype.h"
#include "shared/weights/model_files.h"

namespace tutti::quantize {

struct PlanOptions {
  DType dtype = DType::kQ8_0;
  std::optional<DType> embedding;  // nullopt: as above
};

struct TensorPlan {
  const weights::TensorInfo* source;  // borrowed from the ModelFiles
  DType wanted;                       // by its role
  DType dtype;                        // what it becomes: another one where its rows do not fit
};

// One entry per tensor, in the file's order.
std::vector<TensorPlan> PlanTensors(const weights::ModelFiles& files, const PlanOptions& options);

// The type of `wanted` or, in its place, one that rows of `row_elements` can have.
DType FittingType(DType wanted, int64_t row_elements);

// "Q4_K" or "q4_k"; nullopt for any other text.
std::optional<DType> ParseDType(std::string_view name);

// The number that general.file_type has for a model that is mostly `dtype` (enum llama_ftype; of
// the K types the plain mixtures, "small").
uint32_t FileTypeNumber(DType dtype);

}  // namespace tutti::quantize
