// A model without some of its layers: cheaper, and near enough to the whole one to guess for it
// (self-speculation: Draft & Verify, arXiv:2309.08168).
#pragma once

#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/model/config.h"

namespace tutti::model {

// Layers of a model of `num_layers` as `text` names them, ascending: "3,5,10-14", or "auto"
// (DefaultSkippedLayers). At least one must be left.
// Errors: INVALID_ARGUMENT  says what is wrong with the text
absl::StatusOr<std::vector<int>> ParseLayers(std::string_view text, int num_layers);

// What a self draft leaves out: see docs/speculation.md for how it was measured.
std::vector<int> DefaultSkippedLayers(int num_layers);

// Takes the layers that `text` names out of `config`, which is then another model: its fingerprint
// differs, its vocabulary does not. REQUIRES: config is of the whole model.
// Errors: as ParseLayers
absl::Status SkipLayers(std::string_view text, ModelConfig* config);

}  // namespace tutti::model
