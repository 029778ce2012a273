#include "tests/fault/sim_client.h"

#include <algorithm>

#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::fault {

ClientMessage CopyMessage(const router::Message& m) {
  ClientMessage out;
  if (const auto* s = std::get_if<router::message::Started>(&m.body)) {
    out.kind = ClientMessage::Kind::kStarted;
    out.seed = s->seed;
    out.resume_token = std::string(s->resume_token);
  } else if (const auto* d = std::get_if<router::message::Delta>(&m.body)) {
    out.kind = ClientMessage::Kind::kDelta;
    out.index = d->index;
    out.offset = d->offset;
    out.tokens.assign(d->tokens.begin(), d->tokens.end());
    out.text = d->text;
  } else if (const auto* f = std::get_if<router::message::Finished>(&m.body)) {
    out.kind = ClientMessage::Kind::kFinished;
    out.index = f->index;
    out.reason = f->finish->reason;
    out.output_tokens = f->output_tokens;
    out.digest = f->digest;
    out.seed = f->seed;
  } else {
    out.status = std::get<router::message::End>(m.body).status;
  }
  return out;
}

Client::Client(World* world, Cluster* cluster, std::string name, ClientPlan plan)
    : world_(world), cluster_(cluster), name_(std::move(name)), plan_(std::move(plan)) {
  choices_.resize(static_cast<size_t>(plan_.spec.n));
  world_->At(plan_.start_us, [this] { Start(); });
}

void Client::Start() {
  Generate();
  if (plan_.leave_after_us >= 0) {
    world_->After(plan_.leave_after_us, [this] {
      if (done_) return;
      world_->Trace(name_ + " leaves");
      done_ = gone_ = true;
      DropConnections();
    });
  }
  if (plan_.abort_after_us >= 0) {
    world_->After(plan_.abort_after_us, [this] {
      if (done_ || resume_token_.empty()) return;
      aborted_ = true;
      cluster_->Abort(static_cast<int>(world_->Draw(0, cluster_->num_routers() - 1)), request_id_,
                      resume_token_);
    });
  }
  if (plan_.drop_after_us >= 0) {
    world_->After(plan_.drop_after_us, [this] {
      if (done_) return;
      world_->Trace(name_ + " loses its connections");
      DropConnections();
      if (AllFinished()) {
        done_ = true;
        return;
      }
      Later([this] { ResumeAll(); });
    });
  }
}

bool Client::AllFinished() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.finished; });
}

void Client::DropConnections() {
  if (all_ != nullptr) cluster_->Disconnect(std::exchange(all_, nullptr));
  for (Choice& c : choices_) {
    if (c.stream != nullptr) cluster_->Disconnect(std::exchange(c.stream, nullptr));
  }
}

void Client::Later(std::function<void()> what) {
  world_->After(world_->Draw(1'000, 400'000), [this, epoch = ++epoch_, what = std::move(what)] {
    if (!done_ && epoch == epoch_) what();
  });
}

void Client::Generate() {
  DropConnections();
  if (request_id_.empty() || started_) {
    request_id_ = name_ + "." + std::to_string(++attempt_);
    if (attempt_ > 1) ++from_scratch_;
  }
  started_ = false;
  resume_token_.clear();
  for (Choice& c : choices_) c = Choice();
  router::RequestSpec spec = plan_.spec;
  spec.request_id = request_id_;
  all_ = std::make_shared<ClientStream>();
  cluster_->Generate(static_cast<int>(world_->Draw(0, cluster_->num_routers() - 1)), this, all_,
                     std::move(spec));
}

void Client::ResumeAll() {
  if (all_ != nullptr) return;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].finished && choices_[i].stream == nullptr) ResumeChoice(i);
  }
}

void Client::ResumeChoice(size_t index) {
  ++resumes_;
  Choice& c = choices_[index];
  c.stream = std::make_shared<ClientStream>();
  c.stream->choice = static_cast<int>(index);
  std::optional<uint32_t> after;
  if (c.tokens > 0) after = static_cast<uint32_t>(c.tokens - 1);
  cluster_->Resume(static_cast<int>(world_->Draw(0, cluster_->num_routers() - 1)), this, c.stream,
                   request_id_, resume_token_, static_cast<uint32_t>(index), after);
}

std::string Client::DescribePlan() const {
  const router::RequestSpec& spec = plan_.spec;
  std::string s = " [max_tokens " + std::to_string(spec.sampling.max_tokens) + ", min_tokens " +
                  std::to_string(spec.sampling.min_tokens) + ", ignore_eos " +
                  std::to_string(spec.sampling.ignore_eos);
  for (const int32_t id : spec.sampling.stop_ids) s += ", stop id " + std::to_string(id);
  for (const std::string& stop : spec.stop) s += ", stop \"" + Printable(stop) + "\"";
  for (const Expected& e : plan_.expected) {
    s += "; expected reason " + std::to_string(static_cast<int>(e.reason)) + ", text \"" +
         Printable(e.text, 400) + "\"";
  }
  return s + (aborted_ ? ", aborted]" : "]");
}

void Client::Fail(const std::string& what) {
  world_->Fail(name_ + " (" + request_id_ + "): " + what + DescribePlan());
}

void Client::OnMessage(const std::shared_ptr<ClientStream>& stream, ClientMessage m) {
  if (!stream->open || done_) return;
  switch (m.kind) {
    case ClientMessage::Kind::kStarted:
      started_ = true;
      resume_token_ = m.resume_token;
      if (m.seed != plan_.spec.sampling.seed) Fail("another seed was used");
      return;
    case ClientMessage::Kind::kDelta:
      return OnDelta(m);
    case ClientMessage::Kind::kFinished:
      return OnFinished(m);
    case ClientMessage::Kind::kEnd:
      return OnEnd(stream, m.status);
  }
}

void Client::OnDelta(const ClientMessage& m) {
  if (m.index >= choices_.size()) return Fail("choice " + std::to_string(m.index));
  Choice& c = choices_[m.index];
  const Expected& want = plan_.expected[m.index];
  if (m.offset != c.tokens) {
    return Fail("choice " + std::to_string(m.index) + ": a delta at " + std::to_string(m.offset) +
                ", has " + std::to_string(c.tokens));
  }
  if (c.finished) return Fail("a delta after the end");
  for (const router::Token& t : m.tokens) {
    if (c.tokens >= want.tokens.size())
      return Fail("more tokens than the " + std::to_string(want.tokens.size()) + " expected");
    const router::Token& w = want.tokens[c.tokens];
    if (t.id != w.id || t.digest != w.digest || t.logprob != w.logprob) {
      if (t.id != w.id || t.digest != w.digest ||
          !(t.logprob != t.logprob && w.logprob != w.logprob)) {
        return Fail("choice " + std::to_string(m.index) + " token " + std::to_string(c.tokens) +
                    " is " + std::to_string(t.id) + " digest " + Hex64(t.digest) + ", expected " +
                    std::to_string(w.id) + " digest " + Hex64(w.digest));
      }
    }
    ++c.tokens;
  }
  if (m.tokens.empty() && !m.text.empty()) {  // the tail; sent again after a resume
    if (c.tail) return;
    c.tail = true;
  }
  c.text += m.text;
  if (want.text.compare(0, c.text.size(), c.text) != 0) {
    Fail("text \"" + Printable(c.text) + "\", expected \"" + Printable(want.text) + "\"");
  }
}

void Client::OnFinished(const ClientMessage& m) {
  if (m.index >= choices_.size()) return Fail("choice " + std::to_string(m.index));
  Choice& c = choices_[m.index];
  const Expected& want = plan_.expected[m.index];
  if (c.finished) return Fail("two ends");
  c.finished = true;
  if (m.reason == router::FinishReason::kCancelled && aborted_) {
    cancelled_ = true;
    return;
  }
  if (m.reason != want.reason) {
    return Fail("choice " + std::to_string(m.index) + " (last token " +
                std::to_string(want.tokens.empty() ? -1 : want.tokens.back().id) +
                ") ended with reason " + std::to_string(static_cast<int>(m.reason)) +
                ", expected " + std::to_string(static_cast<int>(want.reason)) + " after " +
                std::to_string(c.tokens) + " of " + std::to_string(want.tokens.size()) + " tokens");
  }
  if (c.tokens != want.tokens.size() || m.output_tokens != want.tokens.size()) {
    return Fail("choice " + std::to_string(m.index) + " has " + std::to_string(c.tokens) +
                " tokens, expected " + std::to_string(want.tokens.size()));
  }
  if (c.text != want.text)
    return Fail("text \"" + Printable(c.text) + "\", expected \"" + Printable(want.text) + "\"");
  const uint64_t digest = want.tokens.empty() ? 0 : want.tokens.back().digest;
  if (m.digest != digest) return Fail("digest differs");
}

void Client::OnEnd(const std::shared_ptr<ClientStream>& stream, const absl::Status& status) {
  stream->open = false;
  if (stream == all_) all_ = nullptr;
  for (Choice& c : choices_) {
    if (c.stream == stream) c.stream = nullptr;
  }
  const bool all_finished = AllFinished();
  if (!status.ok() && !all_finished) return Retry(stream, status);
  if (stream->choice >= 0 && !choices_[static_cast<size_t>(stream->choice)].finished) {
    return Fail("its stream ended well, its choice did not");
  }
  if (all_finished) {
    done_ = true;
    world_->Trace(name_ + " is done");
  } else if (stream->choice < 0) {
    Fail("Generate ended well without the end of every choice");
  }
}

void Client::OnBroken(const std::shared_ptr<ClientStream>& stream) {
  if (!stream->open || done_) return;
  OnEnd(stream, absl::UnavailableError("the connection broke"));
}

void Client::Retry(const std::shared_ptr<ClientStream>& stream, const absl::Status& status) {
  world_->Trace(name_ + ": " + std::string(status.message()));
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      if (stream->choice < 0 && !started_)
        return Later([this] {
          if (all_ == nullptr) Generate();
        });
      return Later([this] { ResumeAll(); });
    case absl::StatusCode::kAlreadyExists:
      started_ = true;
      return Later([this] { ResumeAll(); });
    case absl::StatusCode::kNotFound:  // the store was erased: the seed gives the same answer again
      DropConnections();
      started_ = true;
      return Later([this] {
        if (all_ == nullptr) {
          DropConnections();
          Generate();
        }
      });
    default:
      Fail("error: " + status.ToString());
  }
}

int64_t Client::tokens() const {
  int64_t n = 0;
  for (const Choice& c : choices_) n += static_cast<int64_t>(c.tokens);
  return n;
}

std::string Client::Describe() const {
  std::string s = name_ + " (" + request_id_ + (started_ ? ", started" : ", not started") +
                  (all_ ? ", Generate open" : "");
  for (size_t i = 0; i < choices_.size(); ++i) {
    s += "; choice " + std::to_string(i) + ": " + std::to_string(choices_[i].tokens) + "/" +
         std::to_string(plan_.expected[i].tokens.size()) +
         (choices_[i].finished ? " finished" : "") + (choices_[i].stream ? " resuming" : "");
  }
  return s + ")";
}

}  // namespace tutti::fault
