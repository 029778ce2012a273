#include "tests/cluster/answers.h"

#include <bit>

#include "shared/rpc/channel.h"

namespace tutti::cluster {
namespace {

using generation::v1::GenerateResponse;

Answer Collect(grpc::ClientReader<GenerateResponse>* reader, grpc::ClientContext* context,
               uint32_t first, const OnResponse& on_response) {
  Answer a;
  std::map<uint32_t, uint32_t> next;
  GenerateResponse r;
  while (reader->Read(&r)) {
    a.request_id = r.request_id();
    if (r.has_started()) {
      a.seed = r.started().seed();
      a.resume_token = r.started().resume_token();
      a.prompt_ids.assign(r.started().prompt_ids().begin(), r.started().prompt_ids().end());
      a.prompt_text = r.started().prompt_text();
    } else if (r.has_delta()) {
      const auto& d = r.delta();
      Choice& c = a.choices[d.index()];
      auto [at, added] = next.emplace(d.index(), first);
      a.in_order = a.in_order && d.offset() == at->second;
      at->second += static_cast<uint32_t>(d.tokens_size());
      for (const auto& t : d.tokens()) {
        c.ids.push_back(t.token_id());
        c.digests.push_back(t.digest());
        c.logprob_bits.push_back(std::bit_cast<uint32_t>(t.logprob()));
      }
      c.text += d.text();
    } else if (r.has_finished()) {
      a.choices[r.finished().index()].finished = r.finished();
    }
    if (on_response && !on_response(r)) context->TryCancel();
  }
  a.status = reader->Finish();
  return a;
}

}  // namespace

Answer Generate(generation::v1::GenerationService::Stub* stub,
                const generation::v1::GenerateRequest& request, const OnResponse& on_response,
                int64_t deadline_ms) {
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, deadline_ms);
  return Collect(stub->Generate(&context, request).get(), &context, 0, on_response);
}

Answer Resume(generation::v1::GenerationService::Stub* stub, const std::string& request_id,
              const std::string& resume_token, uint32_t index, std::optional<uint32_t> after_index,
              int64_t deadline_ms) {
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, deadline_ms);
  generation::v1::ResumeRequest request;
  request.set_request_id(request_id);
  request.set_resume_token(resume_token);
  request.set_index(index);
  if (after_index.has_value()) request.set_after_index(*after_index);
  return Collect(stub->Resume(&context, request).get(), &context,
                 after_index.has_value() ? *after_index + 1 : 0, nullptr);
}

}  // namespace tutti::cluster
