// tutti.tokenizer.v1.TokenizerService over a TextModel.
#pragma once

#include <memory>
#include <mutex>

#include "shared/telemetry/metrics.h"
#include "shared/tokenizer/text_model.h"
#include "tutti/tokenizer/v1/tokenizer.grpc.pb.h"

namespace tutti::tokenizer_service {

// Answers UNAVAILABLE (reason STARTING) until SetReady. Requests are answered in gRPC's own thread:
// a prompt takes less time than a hop to another thread. Thread-safe.
class TokenizerServiceImpl final : public tokenizer::v1::TokenizerService::CallbackService {
 public:
  // `metrics` is borrowed.
  explicit TokenizerServiceImpl(telemetry::Metrics* metrics);
  void SetReady(std::shared_ptr<const tokenizer::TextModel> model);

  grpc::ServerUnaryReactor* Encode(grpc::CallbackServerContext* context,
                                   const tokenizer::v1::EncodeRequest* request,
                                   tokenizer::v1::EncodeResponse* response) override;
  grpc::ServerUnaryReactor* Decode(grpc::CallbackServerContext* context,
                                   const tokenizer::v1::DecodeRequest* request,
                                   tokenizer::v1::DecodeResponse* response) override;
  grpc::ServerWriteReactor<tokenizer::v1::GetVocabularyResponse>* GetVocabulary(
      grpc::CallbackServerContext* context,
      const tokenizer::v1::GetVocabularyRequest* request) override;

 private:
  absl::StatusOr<std::shared_ptr<const tokenizer::TextModel>> GetReady() const;
  absl::Status DoEncode(const tokenizer::v1::EncodeRequest& request,
                        tokenizer::v1::EncodeResponse* response) const;
  absl::Status DoDecode(const tokenizer::v1::DecodeRequest& request,
                        tokenizer::v1::DecodeResponse* response) const;
  void Count(const char* method, const absl::Status& status) const;

  telemetry::Metrics* const metrics_;
  prometheus::Histogram &encode_seconds_, &decode_seconds_;
  prometheus::Counter &text_bytes_, &tokens_;
  mutable std::mutex mutex_;
  std::shared_ptr<const tokenizer::TextModel> model_;
};

}  // namespace tutti::tokenizer_service
