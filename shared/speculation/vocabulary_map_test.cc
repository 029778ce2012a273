// Drafts of other vocabularies.
#include "shared/speculation/vocabulary_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "shared/model/single_sequence.h"
#include "shared/sampling/sampler.h"
#include "shared/speculation/mapped_model.h"
#include "shared/testing/toy_model.h"

namespace tutti::speculation {
namespace {

using ::testing::HasSubstr;
using Tokens = std::vector<std::string>;

// Tokens that begin with "<" are special.
std::shared_ptr<const tokenizer::TokenDecoder> Decoder(const Tokens& tokens) {
  tokenizer::DecoderTable table;
  for (const std::string& t : tokens) {
    table.bytes.push_back(t);
    table.special.push_back(t.starts_with("<"));
  }
  return tokenizer::MakeByteDecoder(std::move(table));
}

absl::StatusOr<VocabularyMap> Make(const Tokens& target, const Tokens& draft, int padding = 0) {
  return VocabularyMap::Make(*Decoder(target), static_cast<int>(target.size()) + padding,
                             *Decoder(draft), static_cast<int>(draft.size()) + padding);
}

TEST(VocabularyMapTest, TokensOfTheSameBytesMeet) {
  const auto map = Make({"<s>", "a", "b", "the", " the"}, {" the", "b", "x", "<s>", "a", "th"}, 2);
  ASSERT_TRUE(map.ok()) << map.status();
  const std::vector<int32_t> want = {3, 4, 1, -1, 0, -1, -1};
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(map->ToDraft(static_cast<int32_t>(i)), want[i]) << i;
    if (want[i] >= 0) {
      EXPECT_EQ(map->ToTarget(want[i]), static_cast<int32_t>(i));
      EXPECT_EQ(map->ReadBy(static_cast<int32_t>(i)), want[i]);
    }
  }
  EXPECT_EQ(map->ToTarget(2), -1);
  EXPECT_EQ(map->ReadBy(3), 5);  // "th" of "the"
  EXPECT_EQ(map->num_shared(), 4);
  EXPECT_EQ(map->num_tokens(), 5);
}

TEST(VocabularyMapTest, ASpecialTokenIsNoTextOfTheSameBytes) {
  tokenizer::DecoderTable plain;
  plain.bytes = {"a", "<s>"};
  plain.special = {false, false};
  const auto map =
      VocabularyMap::Make(*Decoder({"a", "<s>"}), 2, *tokenizer::MakeByteDecoder(plain), 2);
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->ToDraft(0), 0);
  EXPECT_EQ(map->ToDraft(1), -1);
}

TEST(VocabularyMapTest, OfSeveralWithTheSameBytesTheLowestCounts) {
  const auto map = Make({"a", "b", "a"}, {"b", "a", "a"});
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->ToDraft(0), 1);
  EXPECT_EQ(map->ToDraft(2), -1);
  EXPECT_EQ(map->ToTarget(1), 0);
  EXPECT_EQ(map->ToTarget(2), -1);
}

TEST(VocabularyMapTest, TooFewSharedTokensAreRefusedWithTheirNumber) {
  const auto map = Make({"a", "b", "c", "d", "e"}, {"a", "b", "x", "y"});
  EXPECT_EQ(map.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(map.status()), "VOCABULARY_MISMATCH");
  EXPECT_THAT(std::string(map.status().message()), HasSubstr("2 of the target's 5 tokens"));
  EXPECT_FALSE(Make({}, {"a"}).ok());
  EXPECT_TRUE(Make({"a", "b", "c", "d"}, {"a", "b", "x", "y"}).ok());
}

// The toy model, but every id is another one.
class RenamedModel : public model::DecoderModel {
 public:
  RenamedModel(std::unique_ptr<model::DecoderModel> model, std::vector<int32_t> old_ids)
      : model_(std::move(model)), old_ids_(std::move(old_ids)) {}
  const model::ModelInfo& info() const override { return model_->info(); }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override {
    std::vector<model::SequenceSlice> old(slices.begin(), slices.end());
    std::vector<std::vector<int32_t>> ids;
    for (const auto& s : slices) {
      auto& mine = ids.emplace_back();
      for (int32_t id : s.tokens) mine.push_back(old_ids_[static_cast<size_t>(id)]);
    }
    for (size_t i = 0; i < old.size(); ++i) old[i].tokens = ids[i];
    model::StepOutput got;
    TUTTI_RETURN_IF_ERROR(model_->Forward(old, pool, &got));
    out->slice_status = got.slice_status;
    out->logits.resize(got.logits.size());
    const size_t vocab = old_ids_.size();
    for (size_t row = 0; row < got.logits.size(); row += vocab) {
      for (size_t id = 0; id < vocab; ++id)
        out->logits[row + id] = got.logits[row + static_cast<size_t>(old_ids_[id])];
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<model::DecoderModel> model_;
  const std::vector<int32_t> old_ids_;
};

Tokens Letters(int n) {
  Tokens tokens;
  for (int i = 0; i < n; ++i) tokens.push_back("t" + std::to_string(i) + ".");
  return tokens;
}

TEST(MappedModelTest, TheSameModelWithOtherIdsGivesTheSameLogitsAndDraws) {
  constexpr int kVocab = 64;
  std::vector<int32_t> old_ids(kVocab);
  for (int i = 0; i < kVocab; ++i) old_ids[static_cast<size_t>(i)] = i;
  std::shuffle(old_ids.begin(), old_ids.end(), std::mt19937_64(5));
  const Tokens of_target = Letters(kVocab);
  Tokens of_draft;
  for (int32_t id : old_ids) of_draft.push_back(of_target[static_cast<size_t>(id)]);
  DraftPair pair{.tokenizer_fingerprint = 7, .target_vocab_size = kVocab, .target_eos_ids = {1}};
  auto map = Make(of_target, of_draft);
  ASSERT_TRUE(map.ok()) << map.status();
  pair.map = std::make_shared<const VocabularyMap>(*map);

  testing::ToyModel target;
  MappedModel draft(std::make_unique<RenamedModel>(testing::MakeToyModel(1), old_ids), pair);
  EXPECT_EQ(draft.info().vocab_size, kVocab);
  EXPECT_NE(draft.info().fingerprint, target.info().fingerprint);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 63, 0};
  EXPECT_EQ(*model::PromptLogits(&draft, ids), *model::PromptLogits(&target, ids));
}

TEST(MappedModelTest, TokensThatTheDraftDoesNotHaveAreNeverItsDraw) {
  constexpr int kVocab = 64;
  const Tokens of_target = Letters(kVocab);
  Tokens of_draft = of_target;
  for (int i = 0; i < kVocab; i += 3) of_draft[static_cast<size_t>(i)] = "other" + of_draft[i];
  DraftPair pair{.tokenizer_fingerprint = 7, .target_vocab_size = kVocab, .target_eos_ids = {1}};
  auto map = Make(of_target, of_draft);
  ASSERT_TRUE(map.ok()) << map.status();
  pair.map = std::make_shared<const VocabularyMap>(*map);
  MappedModel draft(testing::MakeToyModel(1), pair);
  const std::vector<int32_t> ids = {4, 1, 5, 3};
  const auto logits = model::PromptLogits(&draft, ids);
  ASSERT_TRUE(logits.ok()) << logits.status();
  sampling::Scratch scratch;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const sampling::SamplingParams params = {
        .seed = seed, .temperature = 5.0f, .repetition_penalty = 1.3f};
    const sampling::TokenHistory history(params, ids);
    const int32_t token = sampling::SampleToken(params, history, pair.target_eos_ids,
                                                std::span(*logits).last(kVocab), &scratch);
    EXPECT_GE(map->ToDraft(token), 0) << token;
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(model::PromptLogits(&draft, std::vector<int32_t>{kVocab}).status()));
}

}  // namespace
}  // namespace tutti::speculation
