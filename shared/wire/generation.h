// tutti.generation.v1 <-> the router's structs.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/router/router.h"
#include "shared/store/journal.h"
#include "tutti/generation/v1/generation.pb.h"

namespace tutti::wire {

// Takes over what the client gave; ranges that need no model are checked here and by
// ValidateRequest. Errors: INVALID_ARGUMENT naming the field (a field that this version does not
// know, too)
absl::StatusOr<router::RequestSpec> RequestFromProto(const generation::v1::GenerateRequest& proto);
// All that matters for the answer, with every default filled in.
void RequestToProto(const router::RequestSpec& spec, generation::v1::GenerateRequest* proto);

// The form that the journal keeps (store::RequestRecord::request). The prompt is not in it: the
// record has its ids. Errors: DATA_LOSS  not what this version writes
std::string PackRequest(const router::RequestSpec& spec);
absl::StatusOr<router::RequestSpec> UnpackRequest(std::string_view bytes);
// That of a record as it was loaded. One that cannot be read makes `stored` the reason; then, and
// where nothing was loaded, the result is empty.
router::RequestSpec UnpackStored(absl::StatusOr<store::StoredRequest>* stored);

// REQUIRES: message.body is not End.
void MessageToProto(const router::Message& message, generation::v1::GenerateResponse* proto);

void TokenToProto(const store::Token& token, common::v1::TokenInfo* proto);
common::v1::FinishReason FinishToProto(store::FinishReason reason);

void ModelToProto(const router::ModelEntry& entry, generation::v1::Model* proto);

}  // namespace tutti::wire
