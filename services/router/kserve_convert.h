// The Open Inference Protocol <-> requests and messages of the router: tensors and parameters in
// the way that clients of Triton's vLLM backend use them.
//
// text_input may have several strings, [n] or [n, 1], in ModelInfer: a batch, whose outputs stand
// one behind the other in the prompts' order (num_output_tokens says where token_ids divide); an
// error of one is the call's. The other inputs, each as a tensor [1] (or [1, 1]) or as a parameter,
// or inside `sampling_parameters` (a JSON object as text): stream, max_tokens, temperature, top_k,
// top_p, min_p, seed, stop, n, repetition_penalty, presence_penalty, frequency_penalty, min_tokens,
// ignore_eos, skip_special_tokens, include_stop_str_in_output, exclude_input_in_output,
// return_finish_reason, return_num_input_tokens, return_num_output_tokens. What is not in this list
// is an error. Outputs: text_output; on request (in `outputs`, or by a return_* input):
// finish_reason, num_input_tokens, num_output_tokens, token_ids, seed, digest.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "inference/inference.pb.h"
#include "shared/router/types.h"

namespace tutti::router {

struct InferRequest {
  RequestSpec spec;
  std::vector<std::string> more_prompts;  // of a batch, behind the one in `spec`
  std::string model_name, model_version, id;
  bool stream = false;
  bool exclude_input = false;
  bool empty_final_response = false;
  int64_t timeout_us = 0;         // Triton's `timeout`; 0: none beside the call's deadline
  std::set<std::string> outputs;  // never empty
};

// `streaming`: the call is ModelStreamInfer. Errors: INVALID_ARGUMENT naming the tensor or
// parameter.
absl::StatusOr<InferRequest> InferRequestFromProto(const inference::ModelInferRequest& proto,
                                                   bool streaming);

// Turns the messages of one request into responses.
class InferAnswer {
 public:
  explicit InferAnswer(InferRequest request) : request_(std::move(request)) {}

  // The responses that follow from a message, in order, appended to `out`. REQUIRES: not End.
  void OnMessage(const Message& message, std::vector<inference::ModelInferResponse>* out);
  // The request ended well: the last response (with `triton_final_response` where it is a
  // stream's).
  void OnEnd(bool in_stream, std::vector<inference::ModelInferResponse>* out);

  const InferRequest& request() const { return request_; }

 private:
  struct Choice {
    std::string text, finish_reason;
    std::vector<int32_t> token_ids;
    uint64_t digest = 0;
  };
  inference::ModelInferResponse Base() const;
  void AddOutputs(const std::vector<Choice>& choices,
                  inference::ModelInferResponse* response) const;

  InferRequest request_;
  std::string request_id_, model_, prompt_text_;
  uint64_t seed_ = 0;
  uint32_t prompt_tokens_ = 0;
  std::vector<Choice> choices_;
};

// The responses of a batch as one: each output with all elements, in order. REQUIRES: not empty
inference::ModelInferResponse JoinBatch(std::vector<inference::ModelInferResponse> responses);

// The tensors that the model takes and gives.
void FillModelConfig(const std::string& name, inference::ModelConfig* config);
void FillModelMetadata(const std::string& name, inference::ModelMetadataResponse* response);

}  // namespace tutti::router
