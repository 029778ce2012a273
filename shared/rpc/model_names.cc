#include "shared/rpc/model_names.h"

#include "shared/base/strings.h"

namespace tutti::rpc {

absl::Status CheckModelNames(const std::vector<std::string>& names) {
  if (names.size() > 16) return absl::InvalidArgumentError("--served-model-name: at most 16 names");
  for (const std::string& name : names) {
    if (name.empty() || name.size() > 256 || OneWord(name) != name)
      return absl::InvalidArgumentError("--served-model-name: \"" + Printable(name) +
                                        "\" is not one word of at most 256 bytes");
  }
  return absl::OkStatus();
}

}  // namespace tutti::rpc
