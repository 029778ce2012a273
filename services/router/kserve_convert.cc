#include "services/router/kserve_convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <variant>

#include "shared/base/json_text.h"
#include "shared/base/limits.h"
#include "shared/base/strings.h"
#include "shared/router/validate.h"
#include "shared/sampling/ranges.h"

namespace tutti::router {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using Value = std::variant<bool, int64_t, uint64_t, double, std::vector<std::string>>;

absl::Status Bad(const std::string& name, const std::string& what) {
  return absl::InvalidArgumentError(Printable(name) + ": " + what);
}

absl::StatusOr<bool> AsBool(const std::string& name, const Value& v) {
  if (const bool* b = std::get_if<bool>(&v)) return *b;
  return Bad(name, "must be a boolean");
}
absl::StatusOr<int32_t> AsInt(const std::string& name, const Value& v) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (const auto* i = std::get_if<int64_t>(&v); i != nullptr && *i >= -kMax && *i <= kMax)
    return static_cast<int32_t>(*i);
  if (const auto* u = std::get_if<uint64_t>(&v);
      u != nullptr && *u <= static_cast<uint64_t>(kMax)) {
    return static_cast<int32_t>(*u);
  }
  return Bad(name, "must be an integer of 32 bits");
}
absl::StatusOr<uint64_t> AsSeed(const std::string& name, const Value& v) {
  if (const auto* i = std::get_if<int64_t>(&v)) return sampling::SeedFromInt(*i);
  if (const auto* u = std::get_if<uint64_t>(&v)) return *u;
  return Bad(name, "must be an integer from -2^63 to 2^64 - 1");
}
absl::StatusOr<float> AsFloat(const std::string& name, const Value& v) {
  if (const auto* d = std::get_if<double>(&v)) return static_cast<float>(*d);
  if (const auto* i = std::get_if<int64_t>(&v)) return static_cast<float>(*i);
  if (const auto* u = std::get_if<uint64_t>(&v)) return static_cast<float>(*u);
  return Bad(name, "must be a number");
}
absl::StatusOr<std::vector<std::string>> AsStrings(const std::string& name, const Value& v) {
  if (const auto* s = std::get_if<std::vector<std::string>>(&v)) return *s;
  return Bad(name, "must be text");
}

constexpr size_t kMaxNumberBytes = 64;

absl::StatusOr<Value> FromJson(const std::string& name, const nlohmann::ordered_json& j) {
  if (j.is_boolean()) return Value(j.get<bool>());
  if (j.is_number_unsigned()) return Value(j.get<uint64_t>());
  if (j.is_number_integer()) return Value(j.get<int64_t>());
  if (j.is_number_float()) return Value(j.get<double>());
  if (j.is_string()) {
    // Triton's clients put numbers into this object as text, too.
    const std::string text = j.get<std::string>();
    if (name != "stop" && text.size() <= kMaxNumberBytes) {
      const nlohmann::ordered_json inner = nlohmann::ordered_json::parse(text, nullptr, false);
      if (inner.is_number() || inner.is_boolean()) return FromJson(name, inner);
    }
    return Value(std::vector<std::string>{text});
  }
  if (j.is_array()) {
    std::vector<std::string> out;
    for (const auto& e : j) {
      if (!e.is_string()) return Bad(name, "must be a list of strings");
      out.push_back(e.get<std::string>());
    }
    return Value(std::move(out));
  }
  return Bad(name, "must be a boolean, a number, a string or a list of strings");
}

// Collects named values into the request.
class Builder {
 public:
  explicit Builder(InferRequest* out) : out_(*out) {}

  absl::Status Set(const std::string& name, const Value& v) {
    sampling::SamplingParams& p = out_.spec.sampling;
    if (!seen_.insert(name).second) return Bad(name, "is given twice");
    if (name == "text_input" || name == "prompt") {
      TUTTI_ASSIGN_OR_RETURN(const auto text, AsStrings(name, v));
      if (text.empty() || text.size() > limits::kMaxPrompts) {
        return Bad(name, "must be 1 to " + std::to_string(limits::kMaxPrompts) + " strings, not " +
                             std::to_string(text.size()));
      }
      out_.spec.prompt = text[0];
      out_.more_prompts.assign(text.begin() + 1, text.end());
    } else if (name == "sampling_parameters") {
      TUTTI_ASSIGN_OR_RETURN(const auto text, AsStrings(name, v));
      if (text.size() != 1) return Bad(name, "must be one string");
      return SetAll(text[0]);
    } else if (name == "stop" || name == "stop_words") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.stop, AsStrings(name, v));
      std::erase(out_.spec.stop, std::string());
    } else if (name == "stream") {
      TUTTI_ASSIGN_OR_RETURN(out_.stream, AsBool(name, v));
    } else if (name == "exclude_input_in_output") {
      TUTTI_ASSIGN_OR_RETURN(out_.exclude_input, AsBool(name, v));
      exclude_given_ = true;
    } else if (name == "return_finish_reason" || name == "return_num_input_tokens" ||
               name == "return_num_output_tokens") {
      TUTTI_ASSIGN_OR_RETURN(const bool wanted, AsBool(name, v));
      if (wanted) extra_.insert(name.substr(std::strlen("return_")));
    } else if (name == "triton_enable_empty_final_response") {
      TUTTI_ASSIGN_OR_RETURN(out_.empty_final_response, AsBool(name, v));
    } else if (name == "timeout") {
      TUTTI_ASSIGN_OR_RETURN(const uint64_t us, AsSeed(name, v));
      if (us > static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / 2))
        return Bad(name, "must be microseconds from 0");
      out_.timeout_us = static_cast<int64_t>(us);
    } else if (name == "sequence_id" || name == "sequence_start" || name == "sequence_end") {
      // Of stateful models, which this one is not; clients send them with every request.
    } else if (name == "bad_words") {
      TUTTI_ASSIGN_OR_RETURN(const auto words, AsStrings(name, v));
      for (const std::string& word : words) {
        if (!word.empty()) return Bad(name, "is not supported; use logit_bias over HTTP or gRPC");
      }
    } else if (name == "max_tokens") {
      TUTTI_ASSIGN_OR_RETURN(p.max_tokens, AsInt(name, v));
      out_.spec.has_max_tokens = p.max_tokens != -1;  // -1: what the context leaves
    } else if (name == "seed") {
      TUTTI_ASSIGN_OR_RETURN(p.seed, AsSeed(name, v));
      out_.spec.has_seed = true;
    } else if (name == "first_choice") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.first_choice, AsInt(name, v));
    } else if (name == "parse_special") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.parse_special, AsBool(name, v));
    } else if (name == "typical_p") {
      TUTTI_ASSIGN_OR_RETURN(p.typical_p, AsFloat(name, v));
    } else if (name == "length_penalty" || name == "num_beams") {
      return Bad(name, "beam search is not available here; use HTTP or gRPC");
    } else if (name == "n") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.n, AsInt(name, v));
    } else if (name == "priority") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.priority, AsInt(name, v));
    } else if (name == "temperature") {
      TUTTI_ASSIGN_OR_RETURN(p.temperature, AsFloat(name, v));
    } else if (name == "top_k") {
      TUTTI_ASSIGN_OR_RETURN(p.top_k, AsInt(name, v));
      if (p.top_k < 0) p.top_k = 0;  // vLLM's -1: all
    } else if (name == "top_p") {
      TUTTI_ASSIGN_OR_RETURN(p.top_p, AsFloat(name, v));
    } else if (name == "min_p") {
      TUTTI_ASSIGN_OR_RETURN(p.min_p, AsFloat(name, v));
    } else if (name == "repetition_penalty") {
      TUTTI_ASSIGN_OR_RETURN(p.repetition_penalty, AsFloat(name, v));
    } else if (name == "presence_penalty") {
      TUTTI_ASSIGN_OR_RETURN(p.presence_penalty, AsFloat(name, v));
    } else if (name == "frequency_penalty") {
      TUTTI_ASSIGN_OR_RETURN(p.frequency_penalty, AsFloat(name, v));
    } else if (name == "min_tokens") {
      TUTTI_ASSIGN_OR_RETURN(p.min_tokens, AsInt(name, v));
    } else if (name == "ignore_eos") {
      TUTTI_ASSIGN_OR_RETURN(p.ignore_eos, AsBool(name, v));
    } else if (name == "skip_special_tokens") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.skip_special, AsBool(name, v));
    } else if (name == "include_stop_str_in_output") {
      TUTTI_ASSIGN_OR_RETURN(out_.spec.include_stop, AsBool(name, v));
    } else {
      return Bad(name, "is no input or parameter of this model");
    }
    return absl::OkStatus();
  }

  absl::Status SetAll(const std::string& object) {
    const auto parsed = ParseJsonText(object);
    if (!parsed.ok()) return Bad("sampling_parameters", std::string(parsed.status().message()));
    const nlohmann::ordered_json& j = *parsed;
    if (!j.is_object()) return Bad("sampling_parameters", "must be a JSON object");
    for (const auto& [key, value] : j.items()) {
      if (key == "text_input" || key == "sampling_parameters")
        return Bad("sampling_parameters", "cannot hold " + key);
      TUTTI_ASSIGN_OR_RETURN(const Value v, FromJson(key, value));
      TUTTI_RETURN_IF_ERROR(Set(key, v));
    }
    return absl::OkStatus();
  }

  bool exclude_given() const { return exclude_given_; }
  const std::set<std::string>& extra() const { return extra_; }

 private:
  InferRequest& out_;
  std::set<std::string> seen_, extra_;
  bool exclude_given_ = false;
};

template <typename T>
absl::StatusOr<T> RawScalar(const std::string& name, std::string_view raw) {
  if (raw.size() != sizeof(T)) {
    return Bad(name,
               std::to_string(raw.size()) + " bytes, one element has " + std::to_string(sizeof(T)));
  }
  T v;
  std::memcpy(&v, raw.data(), sizeof(T));
  return v;
}

absl::StatusOr<std::vector<std::string>> RawBytes(const std::string& name, std::string_view raw) {
  std::vector<std::string> out;
  while (!raw.empty()) {
    uint32_t n = 0;
    if (raw.size() < 4) return Bad(name, "ends inside a length");
    std::memcpy(&n, raw.data(), 4);
    if (raw.size() - 4 < n)
      return Bad(name, "an element of " + std::to_string(n) + " bytes ends outside the tensor");
    out.emplace_back(raw.substr(4, n));
    raw.remove_prefix(4 + size_t{n});
  }
  return out;
}

absl::StatusOr<Value> RawValue(const std::string& name, const std::string& type,
                               std::string_view raw) {
  if (type == "BYTES") {
    TUTTI_ASSIGN_OR_RETURN(auto v, RawBytes(name, raw));
    return Value(std::move(v));
  }
  if (type == "BOOL") {
    TUTTI_ASSIGN_OR_RETURN(const uint8_t v, RawScalar<uint8_t>(name, raw));
    return Value(v != 0);
  }
  if (type == "INT32") {
    TUTTI_ASSIGN_OR_RETURN(const int32_t v, RawScalar<int32_t>(name, raw));
    return Value(int64_t{v});
  }
  if (type == "INT64") {
    TUTTI_ASSIGN_OR_RETURN(const int64_t v, RawScalar<int64_t>(name, raw));
    return Value(v);
  }
  if (type == "UINT32") {
    TUTTI_ASSIGN_OR_RETURN(const uint32_t v, RawScalar<uint32_t>(name, raw));
    return Value(uint64_t{v});
  }
  if (type == "UINT64") {
    TUTTI_ASSIGN_OR_RETURN(const uint64_t v, RawScalar<uint64_t>(name, raw));
    return Value(v);
  }
  if (type == "FP32") {
    TUTTI_ASSIGN_OR_RETURN(const float v, RawScalar<float>(name, raw));
    return Value(double{v});
  }
  if (type == "FP64") {
    TUTTI_ASSIGN_OR_RETURN(const double v, RawScalar<double>(name, raw));
    return Value(v);
  }
  return Bad(name, "datatype \"" + Printable(type) +
                       "\"; known: BYTES BOOL INT32 INT64 UINT32 UINT64 FP32 FP64");
}

absl::StatusOr<Value> ContentsValue(const std::string& name, const std::string& type,
                                    const inference::InferTensorContents& c) {
  const auto one = [&](int size) -> absl::Status {
    if (size == 1) return absl::OkStatus();
    return Bad(name, std::to_string(size) + " elements of " + Printable(type) + ", must be one");
  };
  if (type == "BYTES") {
    return Value(std::vector<std::string>(c.bytes_contents().begin(), c.bytes_contents().end()));
  }
  if (type == "BOOL") {
    TUTTI_RETURN_IF_ERROR(one(c.bool_contents_size()));
    return Value(c.bool_contents(0));
  }
  if (type == "INT32") {
    TUTTI_RETURN_IF_ERROR(one(c.int_contents_size()));
    return Value(int64_t{c.int_contents(0)});
  }
  if (type == "INT64") {
    TUTTI_RETURN_IF_ERROR(one(c.int64_contents_size()));
    return Value(int64_t{c.int64_contents(0)});
  }
  if (type == "UINT32") {
    TUTTI_RETURN_IF_ERROR(one(c.uint_contents_size()));
    return Value(uint64_t{c.uint_contents(0)});
  }
  if (type == "UINT64") {
    TUTTI_RETURN_IF_ERROR(one(c.uint64_contents_size()));
    return Value(uint64_t{c.uint64_contents(0)});
  }
  if (type == "FP32") {
    TUTTI_RETURN_IF_ERROR(one(c.fp32_contents_size()));
    return Value(double{c.fp32_contents(0)});
  }
  if (type == "FP64") {
    TUTTI_RETURN_IF_ERROR(one(c.fp64_contents_size()));
    return Value(c.fp64_contents(0));
  }
  return Bad(name, "datatype \"" + Printable(type) +
                       "\"; known: BYTES BOOL INT32 INT64 UINT32 UINT64 FP32 FP64");
}

absl::Status CheckShape(const ModelInferRequest::InferInputTensor& tensor, const Value& value) {
  int64_t n = 1;
  for (const int64_t d : tensor.shape()) {
    if (d < 0 || d > 1024)
      return Bad(tensor.name(), "shape has the dimension " + std::to_string(d));
    n *= d;
    if (n > 1024) return Bad(tensor.name(), "shape has over 1024 elements");
  }
  const auto* strings = std::get_if<std::vector<std::string>>(&value);
  const int64_t have = strings != nullptr ? static_cast<int64_t>(strings->size()) : 1;
  if (have != n) {
    return Bad(tensor.name(), "shape says " + std::to_string(n) + " elements, the data has " +
                                  std::to_string(have));
  }
  return absl::OkStatus();
}

template <typename T>
std::string Raw(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof(T));
}
std::string RawString(const std::string& s) { return Raw(static_cast<uint32_t>(s.size())) + s; }

const std::set<std::string>& KnownOutputs() {
  static const std::set<std::string> kNames = {
      "text_output", "finish_reason", "num_input_tokens", "num_output_tokens", "token_ids",
      "seed",        "digest"};
  return kNames;
}

const char* ReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
    default:
      return "stop";
  }
}

}  // namespace

absl::StatusOr<InferRequest> InferRequestFromProto(const ModelInferRequest& proto, bool streaming) {
  InferRequest out;
  out.model_name = proto.model_name();
  out.model_version = proto.model_version();
  out.id = proto.id();
  out.spec.model = proto.model_name();
  out.spec.echo = true;  // for the prompt's text, where it is wanted
  out.spec.parse_special = true;
  if (!out.model_version.empty() && out.model_version != "1") {
    return Bad("model_version", "\"" + Printable(out.model_version) + "\"; there is 1");
  }
  if (!ValidateRequestId(out.id).ok()) return Bad("id", "at most 128 bytes of printable ASCII");
  Builder builder(&out);
  for (const auto& [name, parameter] : proto.parameters()) {
    Value v;
    switch (parameter.parameter_choice_case()) {
      case InferParameter::kBoolParam:
        v = parameter.bool_param();
        break;
      case InferParameter::kInt64Param:
        v = int64_t{parameter.int64_param()};
        break;
      case InferParameter::kUint64Param:
        v = uint64_t{parameter.uint64_param()};
        break;
      case InferParameter::kDoubleParam:
        v = parameter.double_param();
        break;
      case InferParameter::kStringParam: {
        // Clients that know only strings send numbers as text.
        TUTTI_ASSIGN_OR_RETURN(v, FromJson(name, nlohmann::ordered_json(parameter.string_param())));
        break;
      }
      case InferParameter::PARAMETER_CHOICE_NOT_SET:
        return Bad(name, "has no value");
    }
    TUTTI_RETURN_IF_ERROR(builder.Set(name, v));
  }
  const bool raw = proto.raw_input_contents_size() > 0;
  if (raw && proto.raw_input_contents_size() != proto.inputs_size()) {
    return Bad("raw_input_contents", std::to_string(proto.raw_input_contents_size()) + " for " +
                                         std::to_string(proto.inputs_size()) + " inputs");
  }
  for (int i = 0; i < proto.inputs_size(); ++i) {
    const auto& tensor = proto.inputs(i);
    Value v;
    if (raw) {
      if (tensor.has_contents()) return Bad(tensor.name(), "has contents and raw_input_contents");
      TUTTI_ASSIGN_OR_RETURN(
          v, RawValue(tensor.name(), tensor.datatype(), proto.raw_input_contents(i)));
    } else {
      TUTTI_ASSIGN_OR_RETURN(v, ContentsValue(tensor.name(), tensor.datatype(), tensor.contents()));
    }
    TUTTI_RETURN_IF_ERROR(CheckShape(tensor, v));
    TUTTI_RETURN_IF_ERROR(builder.Set(tensor.name(), v));
  }
  if (std::holds_alternative<std::monostate>(out.spec.prompt)) {
    return Bad("text_input", "missing: a BYTES tensor of shape [1]");
  }
  if (streaming && !out.more_prompts.empty()) {
    return Bad("text_input",
               "must be one string in a stream; each request of the stream may have "
               "its own, and they run side by side");
  }
  if (out.spec.n > 0 &&
      out.spec.n * static_cast<int64_t>(out.more_prompts.size() + 1) > limits::kMaxChoices) {
    return Bad("n", "strings times n must be at most " + std::to_string(limits::kMaxChoices));
  }
  if (out.stream && !streaming) return Bad("stream", "needs ModelStreamInfer");
  if (out.stream && out.spec.n != 1) return Bad("n", "must be 1 with stream");
  if (!builder.exclude_given()) out.exclude_input = out.stream;
  if (out.stream && !out.exclude_input)
    return Bad("exclude_input_in_output", "cannot be false with stream");
  for (const auto& output : proto.outputs()) {
    if (KnownOutputs().count(output.name()) == 0)
      return Bad("outputs", "no \"" + Printable(output.name()) + "\"");
    out.outputs.insert(output.name());
  }
  if (out.outputs.empty()) {
    out.outputs = builder.extra();
    out.outputs.insert("text_output");
  }
  return out;
}

ModelInferResponse InferAnswer::Base() const {
  ModelInferResponse r;
  r.set_model_name(model_.empty() ? request_.model_name : model_);
  r.set_model_version("1");
  r.set_id(request_.id.empty() ? request_id_ : request_.id);
  return r;
}

void InferAnswer::AddOutputs(const std::vector<Choice>& choices, ModelInferResponse* r) const {
  const auto add = [&](const char* name, const char* type, int64_t n, std::string raw) {
    if (request_.outputs.count(name) == 0) return;
    auto* o = r->add_outputs();
    o->set_name(name);
    o->set_datatype(type);
    o->add_shape(n);
    r->add_raw_output_contents(std::move(raw));
  };
  const auto n = static_cast<int64_t>(choices.size());
  std::string texts, reasons, counts, ids, digests;
  int64_t num_ids = 0;
  for (const Choice& c : choices) {
    texts += RawString(c.text);
    reasons += RawString(c.finish_reason);
    counts += Raw(static_cast<uint32_t>(c.token_ids.size()));
    digests += Raw(c.digest);
    for (const int32_t id : c.token_ids) ids += Raw(id);
    num_ids += static_cast<int64_t>(c.token_ids.size());
  }
  add("text_output", "BYTES", n, std::move(texts));
  add("finish_reason", "BYTES", n, std::move(reasons));
  add("num_input_tokens", "UINT32", 1, Raw(prompt_tokens_));
  add("num_output_tokens", "UINT32", n, std::move(counts));
  add("token_ids", "INT32", num_ids, std::move(ids));
  add("seed", "UINT64", 1, Raw(seed_));
  add("digest", "UINT64", n, std::move(digests));
}

void InferAnswer::OnMessage(const Message& m, std::vector<ModelInferResponse>* out) {
  if (const auto* s = std::get_if<message::Started>(&m.body)) {
    request_id_ = std::string(m.request_id);
    model_ = std::string(s->model);
    prompt_text_ = std::string(s->prompt_text);
    seed_ = s->seed;
    prompt_tokens_ = static_cast<uint32_t>(s->prompt_ids.size());
    choices_.resize(static_cast<size_t>(request_.spec.n));
  } else if (const auto* d = std::get_if<message::Delta>(&m.body)) {
    Choice part;
    part.text = d->text;
    for (const Token& t : d->tokens) part.token_ids.push_back(t.id);
    if (!d->tokens.empty()) part.digest = d->tokens.back().digest;
    if (d->index < choices_.size()) choices_[d->index].digest = part.digest;
    if (request_.stream) {
      ModelInferResponse r = Base();
      AddOutputs({part}, &r);
      (*r.mutable_parameters())["triton_final_response"].set_bool_param(false);
      out->push_back(std::move(r));
    } else if (d->index < choices_.size()) {
      Choice& c = choices_[d->index];
      c.text += part.text;
      c.token_ids.insert(c.token_ids.end(), part.token_ids.begin(), part.token_ids.end());
    }
  } else if (const auto* f = std::get_if<message::Finished>(&m.body)) {
    if (f->index < choices_.size()) {
      choices_[f->index].finish_reason = ReasonName(f->finish->reason);
      choices_[f->index].digest = f->digest;
    }
  }
}

void InferAnswer::OnEnd(bool in_stream, std::vector<ModelInferResponse>* out) {
  ModelInferResponse r = Base();
  if (!request_.stream) {
    if (!request_.exclude_input) {
      for (Choice& c : choices_) c.text.insert(0, prompt_text_);
    }
    AddOutputs(choices_, &r);
  } else if (!request_.empty_final_response) {
    AddOutputs(choices_, &r);  // no text is left; how it ended is here
  }
  if (in_stream) (*r.mutable_parameters())["triton_final_response"].set_bool_param(true);
  out->push_back(std::move(r));
}

ModelInferResponse JoinBatch(std::vector<ModelInferResponse> responses) {
  ModelInferResponse all = std::move(responses[0]);
  for (size_t i = 1; i < responses.size(); ++i) {
    ModelInferResponse& r = responses[i];
    // All have the outputs that the request names, in one order.
    for (int k = 0; k < r.outputs_size(); ++k) {
      auto* shape = all.mutable_outputs(k)->mutable_shape();
      shape->Set(0, shape->Get(0) + r.outputs(k).shape(0));
      all.mutable_raw_output_contents(k)->append(r.raw_output_contents(k));
    }
  }
  return all;
}

void FillModelConfig(const std::string& name, inference::ModelConfig* config) {
  inference::ModelMetadataResponse metadata;
  FillModelMetadata(name, &metadata);
  const auto type_of = [](const std::string& datatype) {
    inference::DataType type = inference::TYPE_INVALID;
    inference::DataType_Parse("TYPE_" + (datatype == "BYTES" ? "STRING" : datatype), &type);
    return type;
  };
  config->set_name(name);
  config->set_platform(metadata.platform());
  config->set_backend(metadata.platform());
  config->mutable_model_transaction_policy()->set_decoupled(true);
  for (const auto& tensor : metadata.inputs()) {
    auto* input = config->add_input();
    input->set_name(tensor.name());
    input->set_data_type(type_of(tensor.datatype()));
    *input->mutable_dims() = tensor.shape();
    input->set_optional(tensor.name() != "text_input");
  }
  for (const auto& tensor : metadata.outputs()) {
    auto* output = config->add_output();
    output->set_name(tensor.name());
    output->set_data_type(type_of(tensor.datatype()));
    *output->mutable_dims() = tensor.shape();
  }
}

void FillModelMetadata(const std::string& name, inference::ModelMetadataResponse* response) {
  response->set_name(name);
  response->add_versions("1");
  response->set_platform("tutti");
  auto& properties = *response->mutable_properties();
  properties["stream"] = "ModelStreamInfer with the input stream = true";
  properties["max_batch_size"] = "0";  // tensors have no batch dimension of their own
  const auto input = [&](const char* tensor, const char* type, int64_t n) {
    auto* t = response->add_inputs();
    t->set_name(tensor);
    t->set_datatype(type);
    t->add_shape(n);
  };
  input("text_input", "BYTES", -1);
  input("stream", "BOOL", 1);
  input("sampling_parameters", "BYTES", 1);
  input("exclude_input_in_output", "BOOL", 1);
  input("return_finish_reason", "BOOL", 1);
  input("return_num_input_tokens", "BOOL", 1);
  input("return_num_output_tokens", "BOOL", 1);
  input("max_tokens", "INT32", 1);
  input("temperature", "FP32", 1);
  input("top_k", "INT32", 1);
  input("top_p", "FP32", 1);
  input("min_p", "FP32", 1);
  input("seed", "UINT64", 1);
  input("stop", "BYTES", -1);
  const auto output = [&](const char* tensor, const char* type) {
    auto* t = response->add_outputs();
    t->set_name(tensor);
    t->set_datatype(type);
    t->add_shape(-1);
  };
  output("text_output", "BYTES");
  output("finish_reason", "BYTES");
  output("num_input_tokens", "UINT32");
  output("num_output_tokens", "UINT32");
  output("token_ids", "INT32");
  output("seed", "UINT64");
  output("digest", "UINT64");
}

}  // namespace tutti::router
