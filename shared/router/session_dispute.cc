// Targets that say different things of one request: who is asked next, and who is not asked again.
#include <algorithm>
#include <limits>

#include "shared/router/session.h"

namespace tutti::router {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
constexpr int64_t kRefuserAvoidUs = 30'000'000;

}  // namespace

void Session::AskSecondOpinion(Context& ctx, size_t index, WorkerHandle worker,
                               const absl::Status& why) {
  Choice& c = choices_[index];
  c.excluded_until_us[worker] = kForever;
  const bool first = c.refusers.empty();
  c.refusers.push_back(worker);
  if (!first || ctx.fleet.PickTarget(model_->info.fingerprint, *prompt_ids_, c.excluded_until_us,
                                     ctx.now_us) == 0) {
    return Fail(ctx, why);
  }
  ++c.failovers;
  ctx.observer.OnFailover(request_id(), static_cast<uint32_t>(index), ctx.fleet.IdOf(worker),
                          c.tokens.size(), why);
  OpenChoice(ctx, index);
}

void Session::AskWhoIsRight(Context& ctx, size_t index, WorkerHandle worker,
                            const absl::Status& why) {
  Choice& c = choices_[index];
  c.deniers.push_back(worker);
  c.excluded_until_us[worker] = kForever;
  for (const WorkerHandle author : c.authors) c.excluded_until_us[author] = kForever;
  ctx.observer.OnContradiction(request_id(), static_cast<uint32_t>(index), ctx.fleet.IdOf(worker),
                               why);
  if (c.deniers.size() >= 2) {  // two against what was sent
    for (const WorkerHandle author : c.authors) {
      ctx.fleet.Distrust(author, absl::DataLossError("two targets compute other tokens: " +
                                                     std::string(why.message())));
    }
    return Fail(ctx, WithReason(absl::DataLossError(
                                    "router: the tokens sent so far are wrong, as two targets "
                                    "found; a new request gives the right answer"),
                                "COMPUTED_WRONG"));
  }
  if (ctx.fleet.PickTarget(model_->info.fingerprint, *prompt_ids_, c.excluded_until_us,
                           ctx.now_us) == 0) {
    return Fail(ctx, WithReason(absl::DataLossError("router: two targets compute different tokens, "
                                                    "and there is no third one to ask: " +
                                                    std::string(why.message())),
                                kResumeMismatch));
  }
  ++c.failovers;
  ctx.observer.OnFailover(request_id(), static_cast<uint32_t>(index), ctx.fleet.IdOf(worker),
                          c.tokens.size(), why);
  OpenChoice(ctx, index);
}

void Session::NoteAgreement(Context& ctx, Choice& c) {
  for (const WorkerHandle denier : c.deniers) {
    ctx.fleet.Distrust(
        denier, absl::DataLossError("it computes other tokens than targets " +
                                    ctx.fleet.IdOf(c.worker) + " and the one before, which agree"));
  }
  c.deniers.clear();
  // A refusal may come from a limit that the other target has not (its cache, its batch): the
  // refuser is avoided for a while, and may serve other requests.
  for (const WorkerHandle refuser : c.refusers)
    ctx.fleet.Avoid(refuser, ctx.now_us + kRefuserAvoidUs);
  c.refusers.clear();
}

}  // namespace tutti::router
