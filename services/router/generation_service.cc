#include "services/router/generation_service.h"

#include <limits>

#include "shared/base/strings.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/trace.h"
#include "shared/wire/generation.h"

namespace tutti::router {
namespace {

using generation::v1::GenerateResponse;

// Feeds one client stream from the state machine, one write at a time: a slow client gets fewer,
// larger messages, and no queue grows.
class OutputStream final : public grpc::ServerWriteReactor<GenerateResponse>, public Sink {
 public:
  explicit OutputStream(Core* core) : core_(core) {}

  // `start(router, id, now, actions)` begins the request.
  template <typename F>
  void Begin(F&& start) {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      id_ = core_->AddSinkLocked(this);
      start(r, id_, now, a);
    });
  }
  void FinishNow(const absl::Status& status) {
    finished_ = true;
    Finish(rpc::ToGrpc(status));
  }

  void OnWake() override {
    if (!writing_ && !finished_) Pump();
  }
  void Perform() override {
    if (writing_) {
      StartWrite(&response_);
    } else {
      Finish(rpc::ToGrpc(end_));
    }
  }
  void OnWriteDone(bool ok) override {
    core_->Run([&](Router&, int64_t, Actions*) {
      writing_ = false;
      if (cancelled_) return Close(absl::CancelledError("the client went away"));
      if (ok && !finished_) Pump();
    });
  }
  void OnCancel() override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      cancelled_ = true;
      r.OnSubscriberGone(id_, now, a);
      if (!writing_) Close(absl::CancelledError("the client went away"));
    });
  }
  void OnDone() override {
    if (id_ != 0) {
      core_->Run([&](Router& r, int64_t now, Actions* a) {
        core_->RemoveSinkLocked(id_);
        r.OnSubscriberGone(id_, now, a);
      });
    }
    delete this;
  }

 private:
  void Close(const absl::Status& status) {
    if (finished_) return;
    finished_ = true;
    end_ = status;
    core_->PerformLater(this);
  }
  void Pump() {
    const std::optional<Message> message = core_->NextLocked(id_);
    if (!message.has_value()) return;
    if (const auto* end = std::get_if<message::End>(&message->body)) return Close(end->status);
    wire::MessageToProto(*message, &response_);
    writing_ = true;
    core_->PerformLater(this);
  }

  Core* const core_;
  SubscriberId id_ = 0;
  GenerateResponse response_;
  absl::Status end_;
  bool writing_ = false, finished_ = false, cancelled_ = false;
};

grpc::ServerUnaryReactor* Done(grpc::CallbackServerContext* context, const absl::Status& status) {
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

}  // namespace

std::string TraceparentOf(const grpc::CallbackServerContext& context) {
  const auto it = context.client_metadata().find(telemetry::kTraceparentKey);
  const std::string_view header = it == context.client_metadata().end()
                                      ? std::string_view()
                                      : std::string_view(it->second.data(), it->second.size());
  return telemetry::MakeTraceparent(telemetry::ContinueTrace(header));
}

int64_t DeadlineOf(const grpc::CallbackServerContext& context) {
  const int64_t remaining = rpc::RemainingUs(context.deadline());
  constexpr int64_t kYear = int64_t{365} * 86'400 * 1'000'000;
  return remaining > kYear ? 0 : Core::NowUs() + remaining;
}

grpc::ServerWriteReactor<GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const generation::v1::GenerateRequest* request) {
  auto* stream = new OutputStream(core_);
  absl::StatusOr<RequestSpec> spec = wire::RequestFromProto(*request);
  if (!spec.ok()) {
    stream->FinishNow(spec.status());
    return stream;
  }
  spec->traceparent = TraceparentOf(*context);
  spec->deadline_us = DeadlineOf(*context);
  stream->Begin([&](Router& r, SubscriberId id, int64_t now, Actions* a) {
    r.Generate(id, *std::move(spec), now, a);
  });
  return stream;
}

grpc::ServerWriteReactor<GenerateResponse>* GenerationService::Resume(
    grpc::CallbackServerContext*, const generation::v1::ResumeRequest* request) {
  auto* stream = new OutputStream(core_);
  std::optional<uint32_t> after;
  if (request->has_after_index()) after = request->after_index();
  stream->Begin([&](Router& r, SubscriberId id, int64_t now, Actions* a) {
    r.Resume(id, request->request_id(), request->resume_token(), request->index(), after, now, a);
  });
  return stream;
}

grpc::ServerUnaryReactor* GenerationService::Abort(grpc::CallbackServerContext* context,
                                                   const generation::v1::AbortRequest* request,
                                                   generation::v1::AbortResponse*) {
  return Done(context, core_->Abort(request->request_id(), request->resume_token()));
}

grpc::ServerUnaryReactor* GenerationService::ListModels(
    grpc::CallbackServerContext* context, const generation::v1::ListModelsRequest*,
    generation::v1::ListModelsResponse* response) {
  for (const ModelEntry& m : core_->Read([](const Router& r) { return r.fleet().Models(); })) {
    generation::v1::Model model;
    wire::ModelToProto(m, &model);
    model.set_created_unix_s(core_->started_unix_s());
    *response->add_models() = model;
    for (const std::string& alias : m.info.aliases) {
      model.set_name(alias);
      *response->add_models() = model;
    }
  }
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(
    grpc::CallbackServerContext* context, const generation::v1::TokenizeRequest* request,
    generation::v1::TokenizeResponse* response) {
  const auto model =
      core_->Read([&](const Router& r) { return r.fleet().FindModel(request->model()); });
  if (!model.ok()) return Done(context, model.status());
  if (request->input_case() == generation::v1::TokenizeRequest::INPUT_NOT_SET) {
    return Done(context, absl::InvalidArgumentError("input: missing; give one of text, chat"));
  }
  const auto client = core_->TokenizerFor(model->info.tokenizer_fingerprint);
  if (client == nullptr)
    return Done(context, absl::UnavailableError("router: no tokenizer is there"));
  wire::EncodeInput input;
  input.parse_special = request->parse_special();
  input.add_special = request->add_special();
  input.with_offsets = true;
  if (request->has_chat()) {
    const auto& chat = request->chat();
    input.chat = wire::ChatText{chat.messages_json(), chat.tools_json(), chat.variables_json(),
                                !chat.has_add_generation_prompt() || chat.add_generation_prompt(),
                                chat.continue_final_message()};
  } else {
    input.text = request->text();
  }
  auto* reactor = context->DefaultReactor();
  client->Encode(input, 10'000'000,
                 [reactor, response, client,
                  vocabulary = model->vocabulary](absl::StatusOr<wire::EncodeResult> got) {
                   if (got.ok()) {
                     const auto& e = got->encoding;
                     response->mutable_ids()->Assign(e.ids.begin(), e.ids.end());
                     for (const auto& [start, end] : e.offsets) {
                       response->add_offsets(start);
                       response->add_offsets(end);
                     }
                     for (const int32_t id : e.ids) {
                       const std::string_view bytes = vocabulary == nullptr
                                                          ? std::string_view()
                                                          : vocabulary->decoder->Bytes(id);
                       response->add_token_bytes(bytes.data(), bytes.size());
                     }
                   }
                   if (got.ok()) response->set_rendered(std::move(got->rendered));
                   reactor->Finish(rpc::ToGrpc(got.status()));
                 });
  return reactor;
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(
    grpc::CallbackServerContext* context, const generation::v1::DetokenizeRequest* request,
    generation::v1::DetokenizeResponse* response) {
  const auto model =
      core_->Read([&](const Router& r) { return r.fleet().FindModel(request->model()); });
  if (!model.ok()) return Done(context, model.status());
  if (model->vocabulary == nullptr)
    return Done(context,
                absl::UnavailableError("router: no tokenizer has told its vocabulary yet"));
  const auto& decoder = *model->vocabulary->decoder;
  for (int i = 0; i < request->ids_size(); ++i) {
    if (request->ids(i) < 0 || request->ids(i) >= model->info.vocab_size) {
      return Done(context, absl::InvalidArgumentError("ids[" + std::to_string(i) +
                                                      "]: " + std::to_string(request->ids(i)) +
                                                      ", the vocabulary has ids 0 to " +
                                                      std::to_string(model->info.vocab_size - 1)));
    }
  }
  response->set_text(
      decoder.Decode({request->ids().data(), static_cast<size_t>(request->ids_size())}, false));
  return Done(context, absl::OkStatus());
}

}  // namespace tutti::router
