#include "shared/wire/generation.h"

#include <cmath>
#include <limits>

#include "shared/base/strings.h"
#include "shared/wire/sampling.h"

namespace tutti::wire {
namespace {

// Fields that a newer client knows and we do not would change the meaning if they were ignored.
absl::Status RefuseUnknown(const google::protobuf::Message& message, const std::string& where) {
  const auto& unknown = message.GetReflection()->GetUnknownFields(message);
  if (unknown.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(where + ": field number " +
                                    std::to_string(unknown.field(0).number()) +
                                    " is not known to this version");
}

}  // namespace

absl::StatusOr<router::RequestSpec> RequestFromProto(const generation::v1::GenerateRequest& proto) {
  TUTTI_RETURN_IF_ERROR(RefuseUnknown(proto, "request"));
  TUTTI_RETURN_IF_ERROR(RefuseUnknown(proto.sampling(), "sampling"));
  router::RequestSpec spec;
  spec.model = proto.model();
  spec.request_id = proto.request_id();
  switch (proto.prompt_case()) {
    case generation::v1::GenerateRequest::kText:
      spec.prompt = proto.text();
      break;
    case generation::v1::GenerateRequest::kTokenIds:
      spec.prompt =
          std::vector<int32_t>(proto.token_ids().ids().begin(), proto.token_ids().ids().end());
      break;
    case generation::v1::GenerateRequest::kChat: {
      router::ChatPrompt chat;
      chat.messages_json = proto.chat().messages_json();
      chat.tools_json = proto.chat().tools_json();
      chat.variables_json = proto.chat().variables_json();
      chat.add_generation_prompt =
          !proto.chat().has_add_generation_prompt() || proto.chat().add_generation_prompt();
      chat.continue_final_message = proto.chat().continue_final_message();
      spec.prompt = std::move(chat);
      break;
    }
    case generation::v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  // The vocabulary is not known yet: ids are checked again once it is.
  TUTTI_ASSIGN_OR_RETURN(
      spec.sampling, SamplingFromProto(proto.sampling(), 0, std::numeric_limits<int32_t>::max()));
  spec.has_seed = proto.sampling().has_seed();
  spec.has_max_tokens = proto.sampling().has_max_tokens();
  spec.n = proto.has_n() ? proto.n() : 1;
  spec.first_choice = proto.first_choice();
  spec.stop.assign(proto.stop().begin(), proto.stop().end());
  spec.include_stop = proto.include_stop();
  spec.echo = proto.echo();
  spec.parse_special = proto.parse_special();
  spec.priority = proto.priority();
  spec.client = proto.client();
  spec.label = Printable(proto.label(), 128);
  spec.skip_special = !proto.has_skip_special() || proto.skip_special();
  return spec;
}

void RequestToProto(const router::RequestSpec& spec, generation::v1::GenerateRequest* proto) {
  proto->Clear();
  proto->set_model(spec.model);
  proto->set_request_id(spec.request_id);
  if (const auto* text = std::get_if<std::string>(&spec.prompt)) proto->set_text(*text);
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&spec.prompt)) {
    proto->mutable_token_ids()->mutable_ids()->Assign(ids->begin(), ids->end());
  }
  if (const auto* chat = std::get_if<router::ChatPrompt>(&spec.prompt)) {
    proto->mutable_chat()->set_messages_json(chat->messages_json);
    proto->mutable_chat()->set_tools_json(chat->tools_json);
    proto->mutable_chat()->set_variables_json(chat->variables_json);
    proto->mutable_chat()->set_add_generation_prompt(chat->add_generation_prompt);
    proto->mutable_chat()->set_continue_final_message(chat->continue_final_message);
  }
  SamplingToProto(spec.sampling, proto->mutable_sampling());
  proto->set_n(spec.n);
  proto->set_first_choice(spec.first_choice);
  proto->mutable_stop()->Assign(spec.stop.begin(), spec.stop.end());
  proto->set_include_stop(spec.include_stop);
  proto->set_echo(spec.echo);
  proto->set_parse_special(spec.parse_special);
  proto->set_priority(spec.priority);
  proto->set_client(spec.client);
  proto->set_label(spec.label);
  proto->set_skip_special(spec.skip_special);
}

std::string PackRequest(const router::RequestSpec& spec) {
  generation::v1::GenerateRequest proto;
  RequestToProto(spec, &proto);
  proto.clear_prompt();
  return proto.SerializeAsString();
}

absl::StatusOr<router::RequestSpec> UnpackRequest(std::string_view bytes) {
  generation::v1::GenerateRequest proto;
  if (!proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("journal: the request cannot be read");
  }
  absl::StatusOr<router::RequestSpec> spec = RequestFromProto(proto);
  if (!spec.ok()) return absl::DataLossError("journal: " + std::string(spec.status().message()));
  return spec;
}

router::RequestSpec UnpackStored(absl::StatusOr<store::StoredRequest>* stored) {
  if (!stored->ok()) return {};
  absl::StatusOr<router::RequestSpec> spec = UnpackRequest((*stored)->request.request);
  if (spec.ok()) return *std::move(spec);
  *stored = spec.status();
  return {};
}

void TokenToProto(const store::Token& token, common::v1::TokenInfo* proto) {
  proto->set_token_id(token.id);
  if (!std::isnan(token.logprob)) proto->set_logprob(token.logprob);
  for (const store::TopLogprob& t : token.top) {
    auto* top = proto->add_top();
    top->set_token_id(t.token_id);
    top->set_logprob(t.logprob);
  }
  proto->set_digest(token.digest);
}

common::v1::FinishReason FinishToProto(store::FinishReason reason) {
  switch (reason) {
    case store::FinishReason::kNone:
      return common::v1::FINISH_REASON_UNSPECIFIED;
    case store::FinishReason::kEos:
      return common::v1::FINISH_REASON_EOS;
    case store::FinishReason::kStop:
      return common::v1::FINISH_REASON_STOP;
    case store::FinishReason::kLength:
      return common::v1::FINISH_REASON_LENGTH;
    case store::FinishReason::kCancelled:
      return common::v1::FINISH_REASON_CANCELLED;
    case store::FinishReason::kDeadline:
      return common::v1::FINISH_REASON_DEADLINE;
    case store::FinishReason::kError:
      return common::v1::FINISH_REASON_ERROR;
  }
  return common::v1::FINISH_REASON_UNSPECIFIED;
}

namespace {

void AddBytes(const tutti::tokenizer::TokenDecoder& decoder, int32_t id,
              google::protobuf::RepeatedPtrField<std::string>* out) {
  const std::string_view bytes = decoder.Bytes(id);
  out->Add()->assign(bytes.data(), bytes.size());
}

void FinishedToProto(const router::message::Finished& f, generation::v1::Finished* proto) {
  const store::Finish& finish = *f.finish;
  proto->set_index(f.index);
  proto->set_reason(FinishToProto(finish.reason));
  proto->set_matched_stop(finish.matched_stop);
  if (finish.matched_stop_id.has_value()) proto->set_matched_stop_id(*finish.matched_stop_id);
  auto* usage = proto->mutable_usage();
  usage->set_prompt_tokens(finish.usage.prompt_tokens);
  usage->set_output_tokens(finish.usage.output_tokens);
  usage->set_cached_tokens(finish.usage.cached_tokens);
  usage->set_preemptions(finish.usage.preemptions);
  usage->set_queue_us(finish.usage.queue_us);
  usage->set_prefill_us(finish.usage.prefill_us);
  usage->set_decode_us(finish.usage.decode_us);
  usage->set_proposed_tokens(finish.usage.proposed_tokens);
  usage->set_accepted_tokens(finish.usage.accepted_tokens);
  proto->set_digest(f.digest);
  proto->set_seed(f.seed);
  for (const store::Beam& b : finish.beams) {
    auto* beam = proto->add_beams();
    beam->mutable_token_ids()->Assign(b.token_ids.begin(), b.token_ids.end());
    beam->set_score(b.score);
    beam->set_text(b.text);
  }
  proto->set_output_tokens(f.output_tokens);
  proto->set_failovers(finish.failovers);
}

}  // namespace

void MessageToProto(const router::Message& message, generation::v1::GenerateResponse* proto) {
  proto->Clear();
  proto->mutable_request_id()->assign(message.request_id.data(), message.request_id.size());
  if (const auto* s = std::get_if<router::message::Started>(&message.body)) {
    auto* started = proto->mutable_started();
    started->mutable_model()->assign(s->model.data(), s->model.size());
    started->set_fingerprint(s->fingerprint);
    started->set_seed(s->seed);
    started->mutable_prompt_ids()->Assign(s->prompt_ids.begin(), s->prompt_ids.end());
    started->mutable_prompt_text()->assign(s->prompt_text.data(), s->prompt_text.size());
    started->mutable_resume_token()->assign(s->resume_token.data(), s->resume_token.size());
  } else if (const auto* d = std::get_if<router::message::Delta>(&message.body)) {
    auto* delta = proto->mutable_delta();
    delta->set_index(d->index);
    delta->set_offset(d->offset);
    const auto* decoder = message.decoder;
    for (const store::Token& t : d->tokens) {
      TokenToProto(t, delta->add_tokens());
      if (decoder == nullptr) continue;
      AddBytes(*decoder, t.id, delta->mutable_token_bytes());
      for (const auto& a : t.top) AddBytes(*decoder, a.token_id, delta->mutable_top_bytes());
    }
    delta->set_text(d->text);
    for (const store::Token& t : d->prompt_tokens) {
      TokenToProto(t, delta->add_prompt_tokens());
      if (decoder == nullptr) continue;
      AddBytes(*decoder, t.id, delta->mutable_prompt_token_bytes());
      for (const auto& a : t.top) AddBytes(*decoder, a.token_id, delta->mutable_prompt_top_bytes());
    }
  } else if (const auto* f = std::get_if<router::message::Finished>(&message.body)) {
    FinishedToProto(*f, proto->mutable_finished());
  }
}

void ModelToProto(const router::ModelEntry& entry, generation::v1::Model* proto) {
  proto->set_name(entry.info.name);
  proto->set_architecture(entry.info.architecture);
  proto->set_fingerprint(entry.info.fingerprint);
  proto->set_context_tokens(entry.info.context_tokens);
  proto->set_vocab_size(entry.info.vocab_size);
  if (const router::Vocabulary* v = entry.vocabulary.get(); v != nullptr) {
    proto->set_has_chat_template(v->has_chat_template);
    const auto text = [&](int32_t id) {
      return id < 0 ? std::string() : std::string(v->decoder->Bytes(id));
    };
    proto->set_bos_token(text(v->bos_id));
    proto->set_eos_token(text(v->eos_id));
  }
  proto->set_ready_decoders(entry.ready_targets);
}

}  // namespace tutti::wire
