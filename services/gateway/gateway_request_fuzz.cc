// Any bytes as the body of a request: a request or an error, never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "services/gateway/api_error.h"
#include "services/gateway/openai_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  using namespace tutti::gateway;
  if (const auto r = ParseCompletionRequest(body); !r.ok())
    (void)ErrorJson(ErrorFromStatus(r.status()));
  if (const auto r = ParseChatRequest(body); !r.ok()) (void)ErrorJson(ErrorFromStatus(r.status()));
  (void)ParseTokenizeRequest(body);
  (void)ParseDetokenizeRequest(body);
  return 0;
}
