// What workers say, and what the fleet believes.
#include "shared/router/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/router/testing_router.h"

namespace tutti::router {
namespace {

using ::testing::HasSubstr;

class FleetTest : public ::testing::Test {
 protected:
  static WorkerReport Report(WorkerKind kind, const std::string& id) {
    WorkerReport r;
    r.worker_id = id;
    r.kind = kind;
    r.state = WorkerState::kReady;
    r.address = "at-" + id;
    r.process_nonce = "nonce of " + id;
    return r;
  }
  static WorkerReport TargetReport(const std::string& id, uint64_t model = 9) {
    WorkerReport r = Report(WorkerKind::kTarget, id);
    r.fingerprint = model;
    r.tokenizer_fingerprint = 5;
    r.vocabulary_digest = "true";
    r.model = "m" + std::to_string(model);
    return r;
  }
  static WorkerReport TokenizerReport(const std::string& id) {
    WorkerReport r = Report(WorkerKind::kTokenizer, id);
    r.tokenizer_fingerprint = 5;
    return r;
  }
  static ModelInfo Info(uint64_t model = 9) {
    return {"m" + std::to_string(model), "toy", model, 5, 28, 100, {kEos}};
  }
  static Vocabulary Words(const std::string& digest) {
    return {5, LetterDecoder(), 0, 1, false, digest};
  }
  absl::Status Say(WorkerHandle handle, const WorkerReport& r) {
    return fleet_.OnReport(handle, r, now_, &actions_);
  }
  // A target that joins and answers GetModel.
  void Serve(WorkerHandle handle, const WorkerReport& r, const ModelInfo& info) {
    ASSERT_TRUE(Say(handle, r).ok());
    fleet_.OnModelInfo(handle, info, now_);
  }
  std::string RefusedOf(WorkerHandle handle) const {
    for (const WorkerView& w : fleet_.View()) {
      if (w.handle == handle) return w.report.refused;
    }
    return "gone";
  }
  template <typename A>
  int Count() {
    int n = 0;
    for (const Action& a : actions_) n += std::holds_alternative<A>(a) ? 1 : 0;
    actions_.clear();
    return n;
  }

  RouterOptions options_;
  Fleet fleet_{options_};
  Actions actions_;
  int64_t now_ = 1'000'000;
};

TEST_F(FleetTest, AnotherProcessCannotTakeTheIdOfAWorkerThatIsThere) {
  Serve(1, TargetReport("t"), Info());
  WorkerReport impostor = TargetReport("t");
  for (const std::string& nonce : {std::string("another"), std::string()}) {
    impostor.process_nonce = nonce;
    impostor.address = "elsewhere";
    const absl::Status s = Say(2, impostor);
    EXPECT_EQ(s.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(ReasonOf(s), "WORKER_ID_TAKEN");
  }
  EXPECT_EQ(Count<action::CloseWorker>(), 0);
  EXPECT_EQ(fleet_.AddressOf(1), "at-t");
  EXPECT_EQ(fleet_.PickTarget(9, {}, {}, now_), 1u);
  // Nor where neither shows a nonce.
  WorkerReport old = TargetReport("old");
  old.process_nonce.clear();
  ASSERT_TRUE(Say(3, old).ok());
  EXPECT_FALSE(Say(4, old).ok());
  // The same process may: its stream was lost.
  ASSERT_TRUE(Say(5, TargetReport("t")).ok());
  EXPECT_EQ(Count<action::CloseWorker>(), 1);
  EXPECT_EQ(fleet_.AddressOf(1), "");
  // And anybody once it is gone.
  fleet_.OnClosed(5, now_, &actions_);
  EXPECT_TRUE(Say(6, impostor).ok());
}

TEST_F(FleetTest, WhatAWorkerIsDoesNotChangeInItsStream) {
  Serve(1, TargetReport("t"), Info());
  const auto changed = [&](auto change) {
    WorkerReport r = TargetReport("t");
    change(r);
    const absl::Status s = Say(1, r);
    EXPECT_EQ(ReasonOf(s), "WORKER_CHANGED");
    return std::string(s.message());
  };
  EXPECT_THAT(changed([](auto& r) { r.worker_id = "u"; }), HasSubstr("worker_id"));
  EXPECT_THAT(changed([](auto& r) { r.kind = WorkerKind::kDraft; }), HasSubstr("kind"));
  EXPECT_THAT(changed([](auto& r) { r.process_nonce = "x"; }), HasSubstr("process_nonce"));
  EXPECT_THAT(changed([](auto& r) { r.fingerprint = 10; }), HasSubstr("fingerprint"));
  EXPECT_THAT(changed([](auto& r) { r.tokenizer_fingerprint = 0; }), HasSubstr("tokenizer"));
  EXPECT_THAT(changed([](auto& r) { r.vocabulary_digest = ""; }), HasSubstr("digest"));
  EXPECT_EQ(fleet_.FindModel("")->info.name, "m9");
}

TEST_F(FleetTest, AVocabularyCountsOnlyWithTheContentThatTheTargetReadFromItsFile) {
  // A tokenizer that is there first is asked once a model needs it.
  ASSERT_TRUE(Say(1, TokenizerReport("liar")).ok());
  EXPECT_EQ(Count<action::FetchVocabulary>(), 0);
  Serve(2, TargetReport("t"), Info());
  fleet_.Tick(now_, &actions_);
  EXPECT_EQ(Count<action::FetchVocabulary>(), 1);
  fleet_.OnVocabulary(1, Words("false"), now_);
  EXPECT_EQ(fleet_.FindModel("")->vocabulary, nullptr);
  EXPECT_EQ(fleet_.PickTokenizer(5, {}, now_), 0u) << "its ids are not to be believed either";
  EXPECT_THAT(RefusedOf(1), HasSubstr("vocabulary"));
  const auto refusals = fleet_.TakeRefusals();
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(ReasonOf(refusals[0].why), "VOCABULARY_MISMATCH");
  EXPECT_EQ(refusals[0].why.code(), absl::StatusCode::kDataLoss);

  ASSERT_TRUE(Say(3, TokenizerReport("honest")).ok());
  EXPECT_EQ(Count<action::FetchVocabulary>(), 1);
  const Vocabulary right = Words("true");
  fleet_.OnVocabulary(3, right, now_);
  EXPECT_EQ(fleet_.FindModel("")->vocabulary->decoder, right.decoder);
  EXPECT_EQ(fleet_.PickTokenizer(5, {}, now_), 3u);

  // Once it is known, a third one changes nothing, with a fingerprint in its reports or without.
  WorkerReport third = TokenizerReport("third");
  third.tokenizer_fingerprint = 0;
  ASSERT_TRUE(Say(4, third).ok());
  fleet_.OnVocabulary(4, Words("false"), now_);
  fleet_.OnVocabulary(4, Words("true"), now_);
  EXPECT_NE(RefusedOf(4), "");
  EXPECT_EQ(fleet_.FindModel("")->vocabulary->decoder, right.decoder);
  // It stays while the tokenizer starts again.
  fleet_.OnClosed(3, now_, &actions_);
  EXPECT_EQ(fleet_.FindModel("")->vocabulary->decoder, right.decoder);
  // The refusal is not for ever: what it contradicted may have been the fault.
  now_ += 60'000'000;
  ASSERT_TRUE(Say(1, TokenizerReport("liar")).ok());
  EXPECT_GE(Count<action::FetchVocabulary>(), 1);
  fleet_.OnVocabulary(1, Words("true"), now_);
  EXPECT_EQ(RefusedOf(1), "");
}

TEST_F(FleetTest, ATargetThatContradictsAnotherOneGetsNoWork) {
  Serve(1, TargetReport("t"), Info());
  WorkerHandle handle = 10;
  const auto refused = [&](const WorkerReport& r, const ModelInfo& info) {
    Serve(++handle, r, info);
    EXPECT_NE(RefusedOf(handle), "");
    EXPECT_EQ(fleet_.FindModel(uint64_t{9})->ready_targets, 1);
    EXPECT_EQ(fleet_.PickTarget(9, {}, {{1, INT64_MAX}}, now_), 0u);
    return RefusedOf(handle);
  };
  WorkerReport r = TargetReport("other words");
  r.vocabulary_digest = "false";
  EXPECT_THAT(refused(r, Info()), HasSubstr("vocabulary_digest"));
  r = TargetReport("no digest");
  r.vocabulary_digest.clear();
  EXPECT_THAT(refused(r, Info()), HasSubstr("vocabulary_digest"));
  r = TargetReport("other model, same tokenizer, other words", 8);
  r.vocabulary_digest = "false";
  EXPECT_THAT(refused(r, Info(8)), HasSubstr("vocabulary_digest"));
  ModelInfo info = Info();
  info.vocab_size = 1000;
  EXPECT_THAT(refused(TargetReport("more ids"), info), HasSubstr("vocab_size"));
  info = Info();
  info.eos_ids = {3};
  EXPECT_THAT(refused(TargetReport("other ends"), info), HasSubstr("eos_ids"));
  EXPECT_THAT(refused(TargetReport("another fingerprint"), Info(77)), HasSubstr("GetModel"));
  EXPECT_EQ(fleet_.Models().size(), 1u);
  EXPECT_EQ(fleet_.TakeRefusals().size(), 6u);
}

TEST_F(FleetTest, AModelInUseIsNeverPushedOutAndOnesOfPassersByAreFew) {
  Serve(1, TargetReport("t", 1), Info(1));  // the smallest fingerprint
  now_ += 60'000'000;
  for (uint64_t i = 0; i < 1000; ++i) {
    const WorkerHandle h = 100 + i;
    Serve(h, TargetReport("passer-by " + std::to_string(i), 1000 + i), Info(1000 + i));
    fleet_.OnClosed(h, now_, &actions_);
  }
  EXPECT_EQ(fleet_.FindModel("m1")->ready_targets, 1);
  EXPECT_LE(fleet_.Models().size(), 17u);
  EXPECT_EQ(fleet_.FindModel("")->info.name, "m1") << "the one that can serve";
  // Without its target it is remembered, longer than those that came by.
  fleet_.OnClosed(1, now_, &actions_);
  for (uint64_t i = 0; i < 100; ++i) {
    const WorkerHandle h = 2000 + i;
    Serve(h, TargetReport("again " + std::to_string(i), 5000 + i), Info(5000 + i));
    fleet_.OnClosed(h, now_, &actions_);
  }
  EXPECT_TRUE(fleet_.FindModel("m1").ok());
  EXPECT_LE(fleet_.Models().size(), 17u);
  // Many at once: a bound, and the first ones stay.
  for (uint64_t i = 0; i < 300; ++i)
    Serve(5000 + i, TargetReport("many " + std::to_string(i), 9000 + i), Info(9000 + i));
  EXPECT_EQ(RefusedOf(5000), "");
  EXPECT_THAT(RefusedOf(5299), HasSubstr("models already"));
  EXPECT_LE(fleet_.Models().size(), 256u + 17u);
}

TEST_F(FleetTest, RequestsWithoutAModelNameWaitForTheOneThatWasServedLast) {
  Serve(1, TargetReport("old", 3), Info(3));
  fleet_.OnClosed(1, now_, &actions_);
  now_ += 1000;
  Serve(2, TargetReport("new", 4), Info(4));
  EXPECT_EQ(fleet_.FindModel("")->info.name, "m4");
  now_ += 1000;
  fleet_.OnClosed(2, now_, &actions_);
  EXPECT_EQ(fleet_.FindModel("")->info.name, "m4");
}

TEST_F(FleetTest, ExpertsCountOnlyWhereATargetSaysThatTheModelHasThem) {
  WorkerReport target = TargetReport("t");
  target.expert_shape = ExpertShape{70, 3, 8};
  const auto shard = [](const std::string& id, uint32_t layers, uint32_t experts) {
    WorkerReport r = Report(WorkerKind::kExpert, id);
    r.fingerprint = 70;
    auto e = std::make_shared<placement::ExpertReport>();
    e->num_layers = layers;
    e->experts_per_layer = experts;
    e->expert_bytes = 1;
    e->entries = {{.number = 1, .resident = true}};
    r.experts = e;
    return r;
  };
  // Nobody has said yet that there are so many: nothing is kept for them.
  ASSERT_TRUE(Say(1, shard("huge", 2048, 2048)).ok());
  ASSERT_TRUE(Say(2, shard("right", 3, 8)).ok());
  EXPECT_TRUE(fleet_.experts().Placements(0).empty());
  for (const WorkerView& w : fleet_.View()) EXPECT_TRUE(w.report.experts->entries.empty());
  Serve(3, target, Info());
  const absl::Status s = Say(1, shard("huge", 2048, 2048));
  EXPECT_EQ(s.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(s), "EXPERTS_MISMATCH");
  EXPECT_THAT(std::string(s.message()), HasSubstr("3 of 8"));
  ASSERT_TRUE(Say(2, shard("right", 3, 8)).ok());
  ASSERT_EQ(fleet_.experts().Placements(0).size(), 1u);
  EXPECT_EQ(fleet_.experts().Placements(0)[0].experts_per_layer, 8u);
  // A target that says otherwise is refused.
  WorkerReport other = TargetReport("u");
  other.expert_shape = ExpertShape{70, 2048, 2048};
  Serve(4, other, Info());
  EXPECT_THAT(RefusedOf(4), HasSubstr("expert_shape"));
  other.worker_id = other.process_nonce = "v";
  other.expert_shape->num_layers = 1 << 20;
  EXPECT_EQ(ReasonOf(Say(5, other)), "BAD_REPORT");
}

TEST_F(FleetTest, ATokenizerOfAModelWithoutOneIsTheFirstThatComes) {
  WorkerReport target = TargetReport("t");
  target.tokenizer_fingerprint = 0;
  target.vocabulary_digest.clear();
  ModelInfo info = Info();
  info.tokenizer_fingerprint = 0;
  Serve(1, target, info);
  ASSERT_TRUE(Say(2, TokenizerReport("first")).ok());
  EXPECT_EQ(Count<action::FetchVocabulary>(), 1);
  const Vocabulary words = Words("given");
  fleet_.OnVocabulary(2, words, now_);
  EXPECT_EQ(fleet_.FindModel("")->vocabulary->decoder, words.decoder);
  EXPECT_EQ(fleet_.PickTokenizer(0, {}, now_), 2u);
  WorkerReport second = TokenizerReport("second");
  second.tokenizer_fingerprint = 6;
  ASSERT_TRUE(Say(3, second).ok());
  Vocabulary other = Words("other");
  other.fingerprint = 6;
  fleet_.OnVocabulary(3, other, now_);
  EXPECT_EQ(fleet_.FindModel("")->vocabulary->decoder, words.decoder);
  EXPECT_EQ(fleet_.PickTokenizer(0, {{2, INT64_MAX}}, now_), 0u);
}

}  // namespace
}  // namespace tutti::router
