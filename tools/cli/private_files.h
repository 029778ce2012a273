// Files and folders of a state dir: the user's own, readable by nobody else, never through a link
// that somebody else put there.
#pragma once

#include <cstdint>
#include <string>

#include "shared/base/status.h"

namespace tutti::cli {

// Makes `path` a folder of this user with mode 0700; it may be there already. A link as the last
// part of the path is followed only with `follow`, and what it leads to must be this user's.
// Errors: PERMISSION_DENIED  somebody else's, a link, or a folder that others share (/tmp);
//         UNAVAILABLE        cannot be made
absl::Status MakePrivateFolder(const std::string& path, bool follow = false);

// Errors: PERMISSION_DENIED  the folder is neither this user's nor root's, and this is not root
absl::Status CheckOwnFolder(const std::string& path);

// Opens for appending with mode 0600, also when the file was there with a wider one. The
// descriptor is closed on exec. Errors: PERMISSION_DENIED  a link, no plain file, or somebody
// else's; UNAVAILABLE  any other
absl::StatusOr<int> OpenPrivateLog(const std::string& path);

// Replaces a file as a whole, mode 0600; on an error what was there stays, and nothing is left
// beside it. Errors: UNAVAILABLE
absl::Status ReplacePrivateFile(const std::string& path, const std::string& text);

// A log longer than `bytes_max` is copied to PATH.old (replacing it) and emptied; whoever appends
// goes on at its start. Without room for the copy it is only emptied. Lines that are written
// meanwhile may be lost.
void BoundLog(const std::string& path, int64_t bytes_max);

}  // namespace tutti::cli
