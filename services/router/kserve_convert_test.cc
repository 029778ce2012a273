#include "services/router/kserve_convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace tutti::router {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using ::testing::HasSubstr;

std::string Bytes(const std::string& s) {
  const auto n = static_cast<uint32_t>(s.size());
  return std::string(reinterpret_cast<const char*>(&n), 4) + s;
}

// As tritonclient.grpc sends it: raw contents beside the tensors.
ModelInferRequest Raw(const std::string& text) {
  ModelInferRequest r;
  r.set_model_name("m");
  r.set_id("7");
  auto* t = r.add_inputs();
  t->set_name("text_input");
  t->set_datatype("BYTES");
  t->add_shape(1);
  r.add_raw_input_contents(Bytes(text));
  return r;
}

void AddRaw(ModelInferRequest* r, const std::string& name, const std::string& type,
            const std::string& raw) {
  auto* t = r->add_inputs();
  t->set_name(name);
  t->set_datatype(type);
  t->add_shape(1);
  r->add_raw_input_contents(raw);
}

TEST(KserveConvertTest, TensorsParametersAndSamplingParametersMeanTheSame) {
  ModelInferRequest tensors = Raw("hi");
  const int32_t max = 5;
  const float temperature = 0.5f;
  AddRaw(&tensors, "max_tokens", "INT32", std::string(reinterpret_cast<const char*>(&max), 4));
  AddRaw(&tensors, "temperature", "FP32",
         std::string(reinterpret_cast<const char*>(&temperature), 4));
  AddRaw(&tensors, "stream", "BOOL", std::string(1, '\1'));
  ModelInferRequest parameters = Raw("hi");
  (*parameters.mutable_parameters())["max_tokens"].set_int64_param(5);
  (*parameters.mutable_parameters())["temperature"].set_string_param("0.5");
  (*parameters.mutable_parameters())["stream"].set_bool_param(true);
  ModelInferRequest json = Raw("hi");
  AddRaw(&json, "sampling_parameters", "BYTES",
         Bytes(R"({"max_tokens": "5", "temperature": 0.5})"));
  AddRaw(&json, "stream", "BOOL", std::string(1, '\1'));
  for (const ModelInferRequest& proto : {tensors, parameters, json}) {
    const auto r = InferRequestFromProto(proto, true);
    ASSERT_TRUE(r.ok()) << r.status();
    EXPECT_EQ(std::get<std::string>(r->spec.prompt), "hi");
    EXPECT_EQ(r->spec.sampling.max_tokens, 5);
    EXPECT_TRUE(r->spec.has_max_tokens);
    EXPECT_EQ(r->spec.sampling.temperature, 0.5f);
    EXPECT_TRUE(r->stream);
    EXPECT_TRUE(r->exclude_input);
  }
}

TEST(KserveConvertTest, TypedContentsWorkToo) {
  ModelInferRequest r;
  auto* t = r.add_inputs();
  t->set_name("text_input");
  t->set_datatype("BYTES");
  t->add_shape(1);
  t->add_shape(1);
  t->mutable_contents()->add_bytes_contents("hi");
  auto* seed = r.add_inputs();
  seed->set_name("seed");
  seed->set_datatype("UINT64");
  seed->add_shape(1);
  seed->mutable_contents()->add_uint64_contents(~uint64_t{0});
  const auto got = InferRequestFromProto(r, false);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->spec.sampling.seed, ~uint64_t{0});
  EXPECT_FALSE(
      got->exclude_input);  // as Triton's vLLM backend: the prompt comes back unless it streams
}

TEST(KserveConvertTest, WhatIsWrongIsNamed) {
  const auto error = [](const std::function<void(ModelInferRequest*)>& change) {
    ModelInferRequest r = Raw("hi");
    change(&r);
    const auto got = InferRequestFromProto(r, false);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(got.status().message());
  };
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "colour", "BOOL", "\1"); }), HasSubstr("colour"));
  EXPECT_THAT(error([](auto* r) { (*r->mutable_parameters())["wat"].set_bool_param(true); }),
              HasSubstr("wat"));
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "stream", "BOOL", "\1"); }),
              HasSubstr("ModelStreamInfer"));
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "max_tokens", "INT32", "\1"); }),
              HasSubstr("max_tokens"));
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "max_tokens", "BYTES", Bytes("x")); }),
              HasSubstr("max_tokens"));
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "max_tokens", "FP16", "\1\1"); }), HasSubstr("FP16"));
  EXPECT_THAT(
      error([](auto* r) { r->set_raw_input_contents(0, std::string("\xff\xff\xff\xff", 4)); }),
      HasSubstr("text_input"));
  EXPECT_THAT(error([](auto* r) { r->set_raw_input_contents(0, "ab"); }), HasSubstr("text_input"));
  EXPECT_THAT(error([](auto* r) { r->add_raw_input_contents("x"); }),
              HasSubstr("raw_input_contents"));
  EXPECT_THAT(error([](auto* r) { r->mutable_inputs(0)->set_shape(0, 2); }), HasSubstr("shape"));
  EXPECT_THAT(error([](auto* r) { r->mutable_inputs(0)->set_shape(0, 1LL << 62); }),
              HasSubstr("shape"));
  EXPECT_THAT(error([](auto* r) { r->clear_inputs(), r->clear_raw_input_contents(); }),
              HasSubstr("text_input"));
  EXPECT_THAT(error([](auto* r) { r->add_outputs()->set_name("nope"); }), HasSubstr("nope"));
  EXPECT_THAT(error([](auto* r) { AddRaw(r, "sampling_parameters", "BYTES", Bytes("[1]")); }),
              HasSubstr("sampling_parameters"));
  EXPECT_THAT(error([](auto* r) {
                (*r->mutable_parameters())["seed"].set_int64_param(1);
                AddRaw(r, "seed", "INT64", std::string(8, '\1'));
              }),
              HasSubstr("twice"));
}

Message Delta(const std::vector<Token>& tokens, const std::string& text) {
  Message m;
  message::Delta d;
  d.tokens = tokens;
  d.text = text;
  m.body = d;
  return m;
}

TEST(KserveConvertTest, TritonsReservedParametersAreTaken) {
  ModelInferRequest r = Raw("hi");
  auto& p = *r.mutable_parameters();
  p["timeout"].set_int64_param(5'000'000);
  p["sequence_id"].set_int64_param(5);
  p["sequence_start"].set_bool_param(true);
  p["sequence_end"].set_bool_param(true);
  p["seed"].set_int64_param(-1);
  p["max_tokens"].set_int64_param(-1);
  p["first_choice"].set_int64_param(3);
  AddRaw(&r, "bad_words", "BYTES", Bytes(""));
  auto parsed = InferRequestFromProto(r, false);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->timeout_us, 5'000'000);
  EXPECT_EQ(parsed->spec.sampling.seed, UINT64_MAX);
  EXPECT_FALSE(parsed->spec.has_max_tokens);
  EXPECT_EQ(parsed->spec.first_choice, 3);
  EXPECT_TRUE(parsed->spec.parse_special);
  p["timeout"].set_string_param("7");
  EXPECT_EQ(InferRequestFromProto(r, false)->timeout_us, 7);
  p["timeout"].set_int64_param(-1);
  EXPECT_THAT(InferRequestFromProto(r, false).status().message(), HasSubstr("timeout"));
  inference::ModelMetadataResponse metadata;
  FillModelMetadata("m", &metadata);
  EXPECT_FALSE(metadata.properties().empty());
}

TEST(KserveConvertTest, ManyKeysInTheSamplingParametersAreRefusedAtTheLimit) {
  std::string keys;
  for (int i = 0; i < 100000; ++i) keys += ",\"k" + std::to_string(i) + "\":1";
  keys[0] = ' ';
  ModelInferRequest r = Raw("hi");
  AddRaw(&r, "sampling_parameters", "BYTES", Bytes("{" + keys + "}"));
  EXPECT_THAT(InferRequestFromProto(r, false).status().message(),
              HasSubstr("sampling_parameters: has more than 4096 keys"));
}

TEST(KserveConvertTest, AStreamEndsWithTheFinalResponse) {
  for (const bool empty : {false, true}) {
    ModelInferRequest proto = Raw("hi");
    AddRaw(&proto, "stream", "BOOL", std::string(1, '\1'));
    (*proto.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(empty);
    InferAnswer answer(*InferRequestFromProto(proto, true));
    std::vector<ModelInferResponse> out;
    Message started;
    started.body = message::Started{"m", 1, 2, {}, "hi"};
    answer.OnMessage(started, &out);
    EXPECT_TRUE(out.empty());
    const std::vector<Token> tokens(1);
    answer.OnMessage(Delta(tokens, "yes"), &out);
    answer.OnEnd(true, &out);
    ASSERT_EQ(out.size(), 2u);
    EXPECT_EQ(out[0].id(), "7");
    EXPECT_EQ(out[0].raw_output_contents(0), Bytes("yes"));
    EXPECT_FALSE(out[0].parameters().at("triton_final_response").bool_param());
    EXPECT_TRUE(out[1].parameters().at("triton_final_response").bool_param());
    EXPECT_EQ(out[1].outputs_size(), empty ? 0 : 1);
  }
}

TEST(KserveConvertTest, OneResponseHasThePromptUnlessItIsExcluded) {
  for (const bool exclude : {false, true}) {
    ModelInferRequest proto = Raw("hi ");
    AddRaw(&proto, "exclude_input_in_output", "BOOL", std::string(1, exclude ? '\1' : '\0'));
    AddRaw(&proto, "return_num_output_tokens", "BOOL", std::string(1, '\1'));
    InferAnswer answer(*InferRequestFromProto(proto, false));
    std::vector<ModelInferResponse> out;
    Message started;
    started.body = message::Started{"m", 1, 2, {}, "hi "};
    answer.OnMessage(started, &out);
    const std::vector<Token> tokens(2);
    answer.OnMessage(Delta(tokens, "you"), &out);
    answer.OnMessage(Delta({}, "!"), &out);
    EXPECT_TRUE(out.empty());
    answer.OnEnd(false, &out);
    ASSERT_EQ(out.size(), 1u);
    ASSERT_EQ(out[0].outputs_size(), 2);
    EXPECT_EQ(out[0].outputs(0).name(), "text_output");
    EXPECT_EQ(out[0].raw_output_contents(0), Bytes(exclude ? "you!" : "hi you!"));
    EXPECT_EQ(out[0].outputs(1).name(), "num_output_tokens");
    uint32_t n = 0;
    std::memcpy(&n, out[0].raw_output_contents(1).data(), 4);
    EXPECT_EQ(n, 2u);
  }
}

}  // namespace
}  // namespace tutti::router
