// Probability vectors against the golden ones (tests/data/sampling/distributions.json:
// transformers' processors in f64, in the one order that params.h states).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "shared/sampling/sampler.h"

namespace tutti::sampling {
namespace {

TEST(GoldenDistributionsTest, EveryCaseAgreesAndTheZerosAreTheSame) {
  std::ifstream file(TUTTI_SOURCE_DIR "/tests/data/sampling/distributions.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  ASSERT_GE(golden["cases"].size(), 100u);
  int index = 0;
  for (const auto& c : golden["cases"]) {
    SCOPED_TRACE("case " + std::to_string(index++) + " " + c["logits"].get<std::string>() + " " +
                 c["params"].dump());
    SamplingParams params;
    std::vector<int32_t> prompt, generated;
    for (const auto& [name, value] : c["params"].items()) {
      if (name == "temperature")
        params.temperature = value.get<float>();
      else if (name == "top_k")
        params.top_k = value.get<int>();
      else if (name == "top_p")
        params.top_p = value.get<float>();
      else if (name == "min_p")
        params.min_p = value.get<float>();
      else if (name == "typical_p")
        params.typical_p = value.get<float>();
      else if (name == "repetition_penalty")
        params.repetition_penalty = value.get<float>();
      else if (name == "presence_penalty")
        params.presence_penalty = value.get<float>();
      else if (name == "frequency_penalty")
        params.frequency_penalty = value.get<float>();
      else if (name == "prompt_ids")
        prompt = value.get<std::vector<int32_t>>();
      else if (name == "generated_ids")
        generated = value.get<std::vector<int32_t>>();
      else
        FAIL() << "unknown parameter " << name;
    }
    const auto logits = golden["logits"][c["logits"].get<std::string>()].get<std::vector<float>>();
    const auto want = c["probs"].get<std::vector<double>>();
    ASSERT_TRUE(params.Validate(static_cast<int>(logits.size())).ok());
    TokenHistory history(params, prompt);
    for (int32_t token : generated) history.Append(token);
    const auto got = Probabilities(params, history, {}, logits);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], 1e-6) << i;
      EXPECT_EQ(got[i] == 0, want[i] == 0) << i << " " << got[i] << " " << want[i];
    }
  }
}

}  // namespace
}  // namespace tutti::sampling
