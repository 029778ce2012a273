#include "services/router/kserve_service.h"

#include <deque>
#include <list>

#include "services/router/generation_service.h"
#include "services/router/kserve_convert.h"
#include "shared/rpc/status.h"

namespace tutti::router {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

constexpr size_t kMaxRequestsPerStream = 256;  // unfinished ones; the next is read when one ends
constexpr size_t kMaxResponsesQueued = 4;      // a slow client gets fewer, larger pieces

grpc::ServerUnaryReactor* Done(grpc::CallbackServerContext* context, const absl::Status& status) {
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

bool Usable(const ModelEntry& m) { return m.ready_targets > 0 && m.vocabulary != nullptr; }

absl::Status CheckVersion(const std::string& version) {
  if (version.empty() || version == "1") return absl::OkStatus();
  return absl::NotFoundError("version: there is 1");
}

// The id of the wire is the client's name for its response alone: the router makes the request's
// own.
RequestSpec SpecOf(const InferRequest& request, const grpc::CallbackServerContext& context) {
  RequestSpec spec = request.spec;
  spec.traceparent = TraceparentOf(context);
  spec.deadline_us = DeadlineOf(context);
  if (request.timeout_us > 0) {
    const int64_t at = Core::NowUs() + request.timeout_us;
    if (spec.deadline_us == 0 || at < spec.deadline_us) spec.deadline_us = at;
  }
  return spec;
}

// The prompts of one call, answered together.
class UnaryInfer final : public grpc::ServerUnaryReactor, public Sink {
 public:
  UnaryInfer(Core* core, InferRequest request, ModelInferResponse* response)
      : core_(core), request_(std::move(request)), response_(response) {}

  void Begin(const RequestSpec& spec) {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      subs_.push_back(std::make_unique<Sub>(this));
      for (size_t i = 0; i < request_.more_prompts.size(); ++i)
        subs_.push_back(std::make_unique<Sub>(this));
      for (auto& sub : subs_) sub->id = core_->AddSinkLocked(sub.get());
      open_ = subs_.size();
      for (size_t i = 0; i < subs_.size(); ++i) {
        RequestSpec one = spec;
        if (i > 0) one.prompt = request_.more_prompts[i - 1];
        r.Generate(subs_[i]->id, std::move(one), now, a);
      }
    });
  }
  void OnWake() override {}  // its requests are woken
  void OnCancel() override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      for (auto& sub : subs_) r.OnSubscriberGone(sub->id, now, a);
      End(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    });
  }
  void Perform() override { Finish(end_); }
  void OnDone() override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      for (auto& sub : subs_) {
        core_->RemoveSinkLocked(sub->id);
        r.OnSubscriberGone(sub->id, now, a);
      }
    });
    delete this;
  }

 private:
  struct Sub final : public Sink {
    explicit Sub(UnaryInfer* c) : call(c), answer(c->request_) {}
    void OnWake() override { call->Take(this); }
    void Perform() override {}  // the call does it
    UnaryInfer* const call;
    InferAnswer answer;
    ModelInferResponse response;
    SubscriberId id = 0;
    bool over = false;
  };

  void Take(Sub* sub) {
    while (!finished_ && !sub->over) {
      const std::optional<Message> m = core_->NextLocked(sub->id);
      if (!m.has_value()) return;
      std::vector<ModelInferResponse> out;
      const auto* end = std::get_if<message::End>(&m->body);
      if (end == nullptr) {
        sub->answer.OnMessage(*m, &out);
        continue;
      }
      sub->over = true;
      if (!end->status.ok()) return End(rpc::ToGrpc(end->status));
      sub->answer.OnEnd(false, &out);
      sub->response = std::move(out[0]);
      if (--open_ == 0) Complete();
    }
  }
  void Complete() {
    std::vector<ModelInferResponse> all;
    for (auto& sub : subs_) all.push_back(std::move(sub->response));
    *response_ = JoinBatch(std::move(all));
    End(grpc::Status::OK);
  }
  // The requests that still run end with the call, in OnDone.
  void End(const grpc::Status& status) {
    if (finished_) return;
    finished_ = true;
    end_ = status;
    core_->PerformLater(this);
  }

  Core* const core_;
  grpc::Status end_;
  const InferRequest request_;
  ModelInferResponse* const response_;
  std::vector<std::unique_ptr<Sub>> subs_;
  size_t open_ = 0;
  bool finished_ = false;
};

// Many requests over one stream; their responses are mixed, each in its own order.
class StreamInfer final
    : public grpc::ServerBidiReactor<ModelInferRequest, ModelStreamInferResponse>,
      public Sink {
 public:
  StreamInfer(Core* core, grpc::CallbackServerContext* context) : core_(core), context_(context) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      return core_->Run([&](Router&, int64_t, Actions*) {
        read_over_ = true;
        MaybeFinish();
      });
    }
    absl::StatusOr<InferRequest> request = InferRequestFromProto(request_, true);
    const std::string wire_id = request_.id();
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      if (!request.ok()) {
        QueueError(wire_id, request.status());
      } else {
        RequestSpec spec = SpecOf(*request, *context_);
        subs_.emplace_back(std::make_unique<Sub>(this, *std::move(request)));
        Sub* sub = subs_.back().get();
        sub->id = core_->AddSinkLocked(sub);
        r.Generate(sub->id, std::move(spec), now, a);
      }
      Write();
      Read();
    });
  }
  void OnWake() override {}  // its requests are woken
  void Perform() override {
    if (writing_) {
      StartWrite(&response_);
    } else {
      Finish(cancelled_ ? grpc::Status(grpc::StatusCode::CANCELLED, "the client went away")
                        : grpc::Status::OK);
    }
  }
  void OnWriteDone(bool ok) override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      writing_ = false;
      if (ok) {
        Pump();
        Write();
      }
      Reap(r, now, a);
      MaybeFinish();
    });
  }
  void OnCancel() override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      cancelled_ = true;
      for (auto& sub : subs_) r.OnSubscriberGone(sub->id, now, a);
      MaybeFinish();
    });
  }
  void OnDone() override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      for (auto& sub : subs_) {
        core_->RemoveSinkLocked(sub->id);
        r.OnSubscriberGone(sub->id, now, a);
      }
    });
    delete this;
  }

 private:
  struct Sub final : public Sink {
    Sub(StreamInfer* s, InferRequest request) : stream(s), answer(std::move(request)) {}
    void OnWake() override {
      stream->Pump();
      stream->Write();
    }
    void Perform() override {}  // the stream does it
    StreamInfer* const stream;
    InferAnswer answer;
    SubscriberId id = 0;
    bool over = false;
  };

  void QueueError(const std::string& id, const absl::Status& status) {
    ModelStreamInferResponse r;
    r.set_error_message(std::string(status.message()));
    r.mutable_infer_response()->set_id(id);
    (*r.mutable_infer_response()->mutable_parameters())["triton_final_response"].set_bool_param(
        true);
    queue_.push_back(std::move(r));
  }
  // Takes messages of all requests in turn, while there is room.
  void Pump() {
    bool more = true;
    while (more && queue_.size() < kMaxResponsesQueued) {
      more = false;
      for (auto& sub : subs_) {
        if (sub->over) continue;
        const std::optional<Message> m = core_->NextLocked(sub->id);
        if (!m.has_value()) continue;
        more = true;
        std::vector<ModelInferResponse> out;
        if (const auto* end = std::get_if<message::End>(&m->body)) {
          sub->over = true;
          if (end->status.ok()) {
            sub->answer.OnEnd(true, &out);
          } else {
            QueueError(sub->answer.request().id, end->status);
          }
        } else {
          sub->answer.OnMessage(*m, &out);
        }
        for (auto& r : out) {
          ModelStreamInferResponse wrapped;
          *wrapped.mutable_infer_response() = std::move(r);
          queue_.push_back(std::move(wrapped));
        }
      }
    }
  }
  void Write() {
    if (writing_ || finished_ || cancelled_ || queue_.empty()) return;
    response_ = std::move(queue_.front());
    queue_.pop_front();
    writing_ = true;
    core_->PerformLater(this);
  }
  void Read() {
    if (reading_paused_ || finished_ || read_over_) return;
    if (subs_.size() >= kMaxRequestsPerStream) {
      reading_paused_ = true;
      return;
    }
    StartRead(&request_);
  }
  void Reap(Router& r, int64_t now, Actions* a) {
    for (auto it = subs_.begin(); it != subs_.end();) {
      if (!(*it)->over) {
        ++it;
        continue;
      }
      core_->RemoveSinkLocked((*it)->id);
      r.OnSubscriberGone((*it)->id, now, a);
      it = subs_.erase(it);
    }
    if (reading_paused_ && subs_.size() < kMaxRequestsPerStream) {
      reading_paused_ = false;
      Read();
    }
  }
  void MaybeFinish() {
    if (finished_ || writing_) return;
    const bool all_over =
        read_over_ && queue_.empty() &&
        std::all_of(subs_.begin(), subs_.end(), [](const auto& s) { return s->over; });
    if (!cancelled_ && !all_over) return;
    finished_ = true;
    core_->PerformLater(this);
  }

  Core* const core_;
  grpc::CallbackServerContext* const context_;
  ModelInferRequest request_;
  ModelStreamInferResponse response_;
  std::list<std::unique_ptr<Sub>> subs_;
  std::deque<ModelStreamInferResponse> queue_;
  bool writing_ = false, read_over_ = false, reading_paused_ = false, cancelled_ = false,
       finished_ = false;
};

}  // namespace

grpc::ServerUnaryReactor* KserveService::ServerLive(grpc::CallbackServerContext* context,
                                                    const inference::ServerLiveRequest*,
                                                    inference::ServerLiveResponse* response) {
  response->set_live(true);
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ServerReady(grpc::CallbackServerContext* context,
                                                     const inference::ServerReadyRequest*,
                                                     inference::ServerReadyResponse* response) {
  const auto models = core_->Read([](const Router& r) { return r.fleet().Models(); });
  response->set_ready(std::any_of(models.begin(), models.end(), Usable));
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ModelReady(grpc::CallbackServerContext* context,
                                                    const inference::ModelReadyRequest* request,
                                                    inference::ModelReadyResponse* response) {
  const auto model =
      core_->Read([&](const Router& r) { return r.fleet().FindModel(request->name()); });
  // A model that is not here is not ready; Triton's clients expect an answer, not an error.
  if (absl::IsUnavailable(model.status()) || absl::IsNotFound(model.status()))
    return Done(context, absl::OkStatus());
  if (!model.ok()) return Done(context, model.status());
  if (const absl::Status s = CheckVersion(request->version()); !s.ok()) return Done(context, s);
  response->set_ready(Usable(*model));
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ServerMetadata(
    grpc::CallbackServerContext* context, const inference::ServerMetadataRequest*,
    inference::ServerMetadataResponse* response) {
  response->set_name("tutti");
  response->set_version(TUTTI_VERSION);
  response->add_extensions("model_stream_infer");
  response->add_extensions("parameters");
  response->add_extensions("model_configuration");
  response->add_extensions("model_repository");
  response->add_extensions("statistics");
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ModelMetadata(
    grpc::CallbackServerContext* context, const inference::ModelMetadataRequest* request,
    inference::ModelMetadataResponse* response) {
  const auto model =
      core_->Read([&](const Router& r) { return r.fleet().FindModel(request->name()); });
  if (!model.ok()) return Done(context, model.status());
  if (const absl::Status s = CheckVersion(request->version()); !s.ok()) return Done(context, s);
  FillModelMetadata(model->info.name, response);
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ModelConfig(grpc::CallbackServerContext* context,
                                                     const inference::ModelConfigRequest* request,
                                                     inference::ModelConfigResponse* response) {
  const auto model =
      core_->Read([&](const Router& r) { return r.fleet().FindModel(request->name()); });
  if (!model.ok()) return Done(context, model.status());
  if (const absl::Status s = CheckVersion(request->version()); !s.ok()) return Done(context, s);
  FillModelConfig(model->info.name, response->mutable_config());
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::ModelStatistics(
    grpc::CallbackServerContext* context, const inference::ModelStatisticsRequest* request,
    inference::ModelStatisticsResponse* response) {
  if (const absl::Status s = CheckVersion(request->version()); !s.ok()) return Done(context, s);
  std::vector<ModelEntry> models;
  if (request->name().empty()) {
    models = core_->Read([](const Router& r) { return r.fleet().Models(); });
  } else {
    auto model = core_->Read([&](const Router& r) { return r.fleet().FindModel(request->name()); });
    if (!model.ok()) return Done(context, model.status());
    models.push_back(*std::move(model));
  }
  for (const ModelEntry& m : models) {
    const ModelCounts c = core_->CountsOf(m.info.name);
    inference::ModelStatistics* out = response->add_model_stats();
    const auto set = [](inference::StatisticDuration* d, uint64_t count, int64_t us) {
      d->set_count(count);
      d->set_ns(static_cast<uint64_t>(us) * 1000);
    };
    out->set_name(m.info.name);
    out->set_version("1");
    out->set_last_inference(static_cast<uint64_t>(c.last_end_unix_ms));
    out->set_inference_count(c.succeeded);
    out->set_execution_count(c.choices);
    inference::InferStatistics* stats = out->mutable_inference_stats();
    set(stats->mutable_success(), c.succeeded, c.succeeded_us);
    set(stats->mutable_fail(), c.failed, c.failed_us);
    set(stats->mutable_queue(), c.choices, c.queue_us);
    set(stats->mutable_compute_input(), c.choices, c.prefill_us);
    set(stats->mutable_compute_infer(), c.choices, c.decode_us);
  }
  return Done(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* KserveService::RepositoryIndex(
    grpc::CallbackServerContext* context, const inference::RepositoryIndexRequest* request,
    inference::RepositoryIndexResponse* response) {
  for (const ModelEntry& m : core_->Read([](const Router& r) { return r.fleet().Models(); })) {
    if (request->ready() && !Usable(m)) continue;
    inference::RepositoryIndexResponse::ModelIndex* out = response->add_models();
    out->set_name(m.info.name);
    out->set_version("1");
    out->set_state(Usable(m) ? "READY" : "UNAVAILABLE");
    if (m.ready_targets == 0) {
      out->set_reason("no target is ready");
    } else if (m.vocabulary == nullptr) {
      out->set_reason("no tokenizer is ready");
    }
  }
  return Done(context, absl::OkStatus());
}

namespace {
absl::Status NoLoading() {
  return absl::UnimplementedError(
      "models are not loaded by request: a model is there while targets and a tokenizer that "
      "were started with it are (tutti-target --model FILE --join ROUTER)");
}
}  // namespace

grpc::ServerUnaryReactor* KserveService::RepositoryModelLoad(
    grpc::CallbackServerContext* context, const inference::RepositoryModelLoadRequest*,
    inference::RepositoryModelLoadResponse*) {
  return Done(context, NoLoading());
}

grpc::ServerUnaryReactor* KserveService::RepositoryModelUnload(
    grpc::CallbackServerContext* context, const inference::RepositoryModelUnloadRequest*,
    inference::RepositoryModelUnloadResponse*) {
  return Done(context, NoLoading());
}

grpc::ServerUnaryReactor* KserveService::ModelInfer(grpc::CallbackServerContext* context,
                                                    const ModelInferRequest* request,
                                                    ModelInferResponse* response) {
  absl::StatusOr<InferRequest> parsed = InferRequestFromProto(*request, false);
  if (!parsed.ok()) return Done(context, parsed.status());
  const RequestSpec spec = SpecOf(*parsed, *context);
  auto* call = new UnaryInfer(core_, *std::move(parsed), response);
  call->Begin(spec);
  return call;
}

grpc::ServerBidiReactor<ModelInferRequest, ModelStreamInferResponse>*
KserveService::ModelStreamInfer(grpc::CallbackServerContext* context) {
  return new StreamInfer(core_, context);
}

}  // namespace tutti::router
