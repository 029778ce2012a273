#include "services/tokenizer/tokenizer_service.h"

#include <chrono>
#include <ctime>

#include "shared/base/strings.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/log.h"
#include "shared/wire/tokenizer.h"

namespace tutti::tokenizer_service {
namespace {

using tokenizer::TextModel;
using tokenizer::v1::DecodeRequest;
using tokenizer::v1::DecodeResponse;
using tokenizer::v1::EncodeRequest;
using tokenizer::v1::EncodeResponse;
using tokenizer::v1::GetVocabularyRequest;
using tokenizer::v1::GetVocabularyResponse;

constexpr int kMaxDecodeIds = 1 << 21;
constexpr size_t kPieceBytes = 1 << 20;
constexpr size_t kTokenOverheadBytes = 8;  // tag, length, special flag

class Timer {
 public:
  explicit Timer(prometheus::Histogram* histogram) : histogram_(histogram) {}
  ~Timer() {
    histogram_->Observe(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }

 private:
  prometheus::Histogram* const histogram_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Sends the table piece by piece; one write is under way at a time.
class VocabularyStream final : public grpc::ServerWriteReactor<GetVocabularyResponse> {
 public:
  explicit VocabularyStream(std::shared_ptr<const TextModel> model)
      : model_(std::move(model)), decoder_(model_->tokenizer->decoder()) {
    Next();
  }
  explicit VocabularyStream(const absl::Status& status) { Finish(rpc::ToGrpc(status)); }

  void OnWriteDone(bool ok) override {
    if (ok) {
      Next();
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    const tokenizer::Tokenizer& t = *model_->tokenizer;
    const int size = decoder_->vocab_size();
    piece_.Clear();
    piece_.set_fingerprint(t.fingerprint());
    piece_.set_vocab_size(size);
    piece_.set_first_id(next_id_);
    piece_.set_bos_id(t.bos_id());
    piece_.set_eos_id(t.eos_id());
    piece_.set_has_chat_template(model_->chat_template.has_value());
    for (size_t bytes = 0; next_id_ < size && bytes < kPieceBytes; ++next_id_) {
      const std::string_view token = decoder_->Bytes(next_id_);
      bytes += token.size() + kTokenOverheadBytes;
      piece_.add_token_bytes(token.data(), token.size());
      piece_.add_special(decoder_->IsSpecial(next_id_));
    }
    if (next_id_ < size) {
      StartWrite(&piece_);
    } else {
      StartWriteAndFinish(&piece_, grpc::WriteOptions(), grpc::Status::OK);
    }
  }

  std::shared_ptr<const TextModel> model_;
  std::shared_ptr<const tokenizer::TokenDecoder> decoder_;
  int32_t next_id_ = 0;
  GetVocabularyResponse piece_;
};

}  // namespace

TokenizerServiceImpl::TokenizerServiceImpl(telemetry::Metrics* metrics)
    : metrics_(metrics),
      encode_seconds_(metrics->Latency("tutti_tokenizer_encode_seconds",
                                       "Encode calls, with the chat template")),
      decode_seconds_(metrics->Latency("tutti_tokenizer_decode_seconds", "Decode calls")),
      text_bytes_(metrics->Counter("tutti_tokenizer_text_bytes_total", "Bytes encoded")),
      tokens_(metrics->Counter("tutti_tokenizer_tokens_total", "Tokens that Encode gave")) {}

void TokenizerServiceImpl::SetReady(std::shared_ptr<const TextModel> model) {
  std::lock_guard lock(mutex_);
  model_ = std::move(model);
}

absl::StatusOr<std::shared_ptr<const TextModel>> TokenizerServiceImpl::GetReady() const {
  std::lock_guard lock(mutex_);
  if (model_ != nullptr) return model_;
  return WithRetryAfterMs(
      WithReason(absl::UnavailableError("the tokenizer is being loaded"), "STARTING"), 200);
}

absl::Status TokenizerServiceImpl::DoEncode(const EncodeRequest& request,
                                            EncodeResponse* response) const {
  TUTTI_ASSIGN_OR_RETURN(const auto model, GetReady());
  TUTTI_RETURN_IF_ERROR(wire::CheckEncodeRequest(request));
  tokenizer::EncodeOptions options;
  options.parse_special = request.parse_special();
  options.add_special = request.add_special();
  TextModel::Rendered rendered;
  if (request.has_chat()) {
    TUTTI_ASSIGN_OR_RETURN(auto input, wire::TemplateInputFromProto(request.chat()));
    input.now_unix_s = std::time(nullptr);
    TUTTI_ASSIGN_OR_RETURN(rendered, model->RenderChat(std::move(input), request.parse_special()));
    response->set_rendered(std::move(rendered.text));
    if (!IsValidUtf8(response->rendered())) {
      return absl::InvalidArgumentError("chat: the template's text is not UTF-8");
    }
    options.parse_special = true;  // of the template
    options.breaks = rendered.breaks;
  }
  const std::string& text = request.has_chat() ? response->rendered() : request.text();
  if (request.with_offsets()) {
    const tokenizer::Encoding encoding = model->tokenizer->EncodeWithOffsets(text, options);
    response->mutable_ids()->Assign(encoding.ids.begin(), encoding.ids.end());
    response->mutable_offsets()->Reserve(2 * static_cast<int>(encoding.offsets.size()));
    for (const auto& [begin, end] : encoding.offsets) {
      response->add_offsets(begin);
      response->add_offsets(end);
    }
  } else {
    const std::vector<int32_t> ids = model->tokenizer->Encode(text, options);
    response->mutable_ids()->Assign(ids.begin(), ids.end());
  }
  text_bytes_.Increment(static_cast<double>(text.size()));
  tokens_.Increment(response->ids_size());
  return absl::OkStatus();
}

absl::Status TokenizerServiceImpl::DoDecode(const DecodeRequest& request,
                                            DecodeResponse* response) const {
  TUTTI_ASSIGN_OR_RETURN(const auto model, GetReady());
  const int size = model->tokenizer->vocab_size();
  if (request.ids_size() > kMaxDecodeIds) {
    return absl::InvalidArgumentError("ids: " + std::to_string(request.ids_size()) +
                                      " of them; at most " + std::to_string(kMaxDecodeIds));
  }
  for (int i = 0; i < request.ids_size(); ++i) {
    if (request.ids(i) < 0 || request.ids(i) >= size) {
      return absl::InvalidArgumentError("ids[" + std::to_string(i) + "]: token id " +
                                        std::to_string(request.ids(i)) +
                                        " is outside the vocabulary of " + std::to_string(size));
    }
  }
  response->set_text(model->tokenizer->decoder()->Decode(
      {request.ids().data(), static_cast<size_t>(request.ids_size())}, request.skip_special()));
  return absl::OkStatus();
}

void TokenizerServiceImpl::Count(const char* method, const absl::Status& status) const {
  metrics_
      ->Counter("tutti_tokenizer_requests_total", "Calls, by method and status code",
                {{"method", method}, {"code", absl::StatusCodeToString(status.code())}})
      .Increment();
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Encode(grpc::CallbackServerContext* context,
                                                       const EncodeRequest* request,
                                                       EncodeResponse* response) {
  absl::Status status;
  {
    Timer timer(&encode_seconds_);
    status = DoEncode(*request, response);
  }
  Count("Encode", status);
  if (const auto level = status.ok() ? telemetry::Level::kDebug : telemetry::Level::kInfo;
      telemetry::LogEnabled(level)) {
    telemetry::Log(level, "tokenizer/encode",
                   {{"request_id", Printable(request->request_id(), 128)},
                    {"tokens", std::to_string(response->ids_size())},
                    {"result", status.ToString()}});
  }
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Decode(grpc::CallbackServerContext* context,
                                                       const DecodeRequest* request,
                                                       DecodeResponse* response) {
  absl::Status status;
  {
    Timer timer(&decode_seconds_);
    status = DoDecode(*request, response);
  }
  Count("Decode", status);
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

grpc::ServerWriteReactor<GetVocabularyResponse>* TokenizerServiceImpl::GetVocabulary(
    grpc::CallbackServerContext*, const GetVocabularyRequest*) {
  auto model = GetReady();
  Count("GetVocabulary", model.status());
  if (!model.ok()) return new VocabularyStream(model.status());
  return new VocabularyStream(*std::move(model));
}

}  // namespace tutti::tokenizer_service
