#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "shared/base/strings.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/tokenizer/tokenizer.h"
#include "tools/cli/commands.h"
#include "tools/cli/http_api.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/where.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cli {
namespace {

using generation::v1::GenerationService;
using nlohmann::json;

constexpr int kCallMs = 60'000;

struct Options {
  WhereOptions where;
  std::string text, file, ids;
  bool no_special = false, plain = false, json = false;
};

struct Encoded {
  std::vector<int32_t> ids;
  std::vector<std::string> bytes;                    // of each token
  std::vector<std::pair<uint32_t, uint32_t>> spans;  // of each token in the text, in bytes
  std::string decoded;
};

absl::StatusOr<Encoded> EncodeHere(const Options& o, const std::string& text) {
  TUTTI_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::LoadTokenizer(o.where.local.model));
  Encoded out;
  if (!o.ids.empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.ids, ParseIds(o.ids, "--ids"));
    const int size = tokenizer->decoder()->vocab_size();
    for (const int32_t id : out.ids) {
      if (id < 0 || id >= size)
        return absl::InvalidArgumentError(
            absl::StrCat("--ids: ", id, ", the vocabulary has ids 0 to ", size - 1));
    }
  } else {
    auto encoding = tokenizer->EncodeWithOffsets(
        text, {.parse_special = !o.plain, .add_special = !o.no_special});
    out.ids = std::move(encoding.ids);
    for (const auto& [begin, end] : encoding.offsets)
      out.spans.emplace_back(static_cast<uint32_t>(begin), static_cast<uint32_t>(end));
  }
  for (const int32_t id : out.ids) out.bytes.emplace_back(tokenizer->decoder()->Bytes(id));
  out.decoded = tokenizer->decoder()->Decode(out.ids, false);
  return out;
}

absl::StatusOr<Encoded> EncodeOverGrpc(const Options& o, const Endpoint& at,
                                       const std::string& text) {
  TUTTI_ASSIGN_OR_RETURN(const auto channel, rpc::OpenChannel(at.address, {.tls = at.tls}));
  const auto stub = GenerationService::NewStub(channel);
  Encoded out;
  generation::v1::DetokenizeRequest decode;
  if (!o.ids.empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.ids, ParseIds(o.ids, "--ids"));
  } else {
    generation::v1::TokenizeRequest request;
    request.set_text(text);
    request.set_parse_special(!o.plain);
    request.set_add_special(!o.no_special);
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, kCallMs);
    generation::v1::TokenizeResponse response;
    TUTTI_RETURN_IF_ERROR(rpc::FromGrpc(stub->Tokenize(&context, request, &response)));
    out.ids.assign(response.ids().begin(), response.ids().end());
    out.bytes.assign(response.token_bytes().begin(), response.token_bytes().end());
    for (int i = 0; i + 1 < response.offsets_size(); i += 2)
      out.spans.emplace_back(response.offsets(i), response.offsets(i + 1));
  }
  decode.mutable_ids()->Add(out.ids.begin(), out.ids.end());
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, kCallMs);
  generation::v1::DetokenizeResponse response;
  TUTTI_RETURN_IF_ERROR(rpc::FromGrpc(stub->Detokenize(&context, decode, &response)));
  out.decoded = response.text();
  return out;
}

absl::StatusOr<Encoded> EncodeOverHttp(const Options& o, const Endpoint& at,
                                       const std::string& text) {
  HttpApi api(at);
  Encoded out;
  if (!o.ids.empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.ids, ParseIds(o.ids, "--ids"));
  } else {
    TUTTI_ASSIGN_OR_RETURN(const json r,
                           api.Post("/tokenize", {{"prompt", text},
                                                  {"parse_special", !o.plain},
                                                  {"add_special_tokens", !o.no_special},
                                                  {"return_token_strs", true},
                                                  {"return_offsets", true}}));
    const auto array = [&](const char* name) {
      return r.contains(name) && r[name].is_array() ? r[name] : json::array();
    };
    for (const json& id : array("tokens")) {
      if (id.is_number_integer()) out.ids.push_back(id.get<int32_t>());
    }
    for (const json& t : array("token_strs"))
      out.bytes.push_back(t.is_string() ? t.get<std::string>() : "");
    for (const json& span : array("offsets")) {
      if (span.is_array() && span.size() == 2 && span[0].is_number_unsigned() &&
          span[1].is_number_unsigned())
        out.spans.emplace_back(span[0].get<uint32_t>(), span[1].get<uint32_t>());
    }
  }
  TUTTI_ASSIGN_OR_RETURN(const json r, api.Post("/detokenize", {{"tokens", out.ids}}));
  if (r.contains("prompt") && r["prompt"].is_string()) out.decoded = r["prompt"];
  return out;
}

absl::Status Run(const CLI::App& app, const Options& o) {
  std::string text;
  if (o.ids.empty()) {
    TUTTI_ASSIGN_OR_RETURN(text, ReadPrompt(o.text, app.count("TEXT") > 0, o.file));
  } else if (app.count("TEXT") > 0 || !o.file.empty()) {
    return absl::InvalidArgumentError("--ids: turns ids into text; give no text beside it");
  }
  absl::StatusOr<Encoded> encoded;
  if (!o.where.local.model.empty()) {
    encoded = EncodeHere(o, text);
  } else {
    TUTTI_ASSIGN_OR_RETURN(const Endpoint at, ClusterEndpoint(o.where));
    encoded = at.http ? EncodeOverHttp(o, at, text) : EncodeOverGrpc(o, at, text);
  }
  TUTTI_RETURN_IF_ERROR(encoded.status());
  const Encoded& e = *encoded;
  if (o.json) {
    json spans = json::array();
    for (const auto& [begin, end] : e.spans) spans.push_back({begin, end});
    const json out = {
        {"ids", e.ids}, {"tokens", e.bytes}, {"offsets", spans}, {"decoded", e.decoded}};
    std::printf("%s\n", out.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  } else if (!o.ids.empty()) {
    std::printf("%s\n", e.decoded.c_str());
  } else {
    for (size_t i = 0; i < e.ids.size(); ++i) {
      std::printf("%8d  %s\n", e.ids[i],
                  i < e.bytes.size() ? Printable(e.bytes[i], 200).c_str() : "");
    }
    std::printf("%zu tokens, %zu bytes\n", e.ids.size(), text.size());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenize(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  sub->footer(
      "Special tokens that stand in the text become those tokens, and what the model's "
      "post-processor\n"
      "adds (BOS, EOS) is added, unless told otherwise.\n"
      "Examples:\n"
      "  tutti tokenize \"Hello world\"                      as the running cluster does\n"
      "  tutti tokenize --model model.gguf \"Hello world\"   in this process\n"
      "  tutti tokenize --ids \"28120 905\"                  back to text\n"
      "  tutti tokenize --model folder/tokenizer.json -f text.txt --no-special --json");
  CLI::Option* model =
      sub->add_option("--model", o->where.local.model,
                      "Without a cluster: a .gguf file, a folder with tokenizer.json, a packed "
                      "directory, or a tokenizer.json")
          ->group("Where");
  AddAddressFlags(sub, &o->where.address, &o->where.tls);
  sub->get_option("--address")->excludes(model);
  AddStateDirFlag(sub, &o->where.state_dir);
  sub->get_option("--state-dir")->group("Where");
  sub->add_option("TEXT", o->text, "The text");
  sub->add_option("-f,--file", o->file, "Read the text from a file; -: from stdin");
  sub->add_option("--ids", o->ids, "Print the text of these token ids: \"1 2 3\"");
  sub->add_flag("--no-special", o->no_special, "Add no BOS, EOS or other special tokens");
  sub->add_flag("--plain", o->plain, "Special tokens' text inside TEXT is text like any other");
  sub->add_flag("--json", o->json, "One JSON object: ids, tokens, offsets (bytes), decoded");
  sub->callback([o, sub, action] { *action = [o, sub] { return Run(*sub, *o); }; });
}

}  // namespace tutti::cli
