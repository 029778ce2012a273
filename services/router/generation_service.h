// tutti.generation.v1.GenerationService over the core. No logic: decode, hand in, encode.
#pragma once

#include "services/router/core.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::router {

class GenerationService final : public generation::v1::GenerationService::CallbackService {
 public:
  explicit GenerationService(Core* core) : core_(core) {}

  grpc::ServerWriteReactor<generation::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const generation::v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<generation::v1::GenerateResponse>* Resume(
      grpc::CallbackServerContext* context, const generation::v1::ResumeRequest* request) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const generation::v1::AbortRequest* request,
                                  generation::v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const generation::v1::ListModelsRequest* request,
                                       generation::v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const generation::v1::TokenizeRequest* request,
                                     generation::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const generation::v1::DetokenizeRequest* request,
                                       generation::v1::DetokenizeResponse* response) override;

 private:
  Core* const core_;
};

// The W3C trace of a call (continued, or a new one), as a header for the calls made for it.
std::string TraceparentOf(const grpc::CallbackServerContext& context);
// The call's deadline on the core's clock; 0: none.
int64_t DeadlineOf(const grpc::CallbackServerContext& context);

}  // namespace tutti::router
