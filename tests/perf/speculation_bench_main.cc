// speculation_bench: n-gram drafts against none over one model in one process.
//
//   build/bin/speculation_bench --model FILE [--threads 2] [--pairs 5] [--tokens 160] [--json]
//
// Tasks whose answer repeats its input (quote, summarise, summarise by extracts, edit code) at
// batch 1, several texts of each, and creative text, which nothing foretells, at batch 1 to 16.
// One engine with guesses and one without serve all of it, as a service does: what guesses cost and
// how often they are right is learned once. What was answered before is not looked at, because the
// same questions come again. Every pair must give the same digests; the figures are tokens per
// second of decoding (after the first token), medians, and the median of the ratios within each
// pair, whose two engines take turns step by step. --steps also tells what the steps of the last
// run with guesses took, by the number of their rows, and --text what was said. Last come the means
// of each kind of task.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"
#include "shared/tokenizer/text_model.h"

namespace tutti {
namespace {

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

// The geometric mean of ratios, and the least of them.
void Summary(const std::string& kind, const std::vector<double>& ratios, bool json) {
  if (ratios.empty()) return;
  double logs = 0;
  for (double r : ratios) logs += std::log(r);
  const double mean = std::exp(logs / static_cast<double>(ratios.size()));
  const double least = *std::min_element(ratios.begin(), ratios.end());
  std::printf(json ? "{\"kind\": \"%s\", \"mean_ratio\": %.4f, \"least\": %.4f}\n"
                   : "%-16s mean ratio %.3f, least %.3f\n",
              kind.c_str(), mean, least);
}

constexpr const char kArticle[] =
    "The lighthouse on Gull Island was built in 1874 by a crew of thirty masons who lived in tents "
    "through two winters. Its lamp burned whale oil at first, then paraffin, and from 1931 on it "
    "was "
    "electric. The keeper climbed one hundred and twelve steps every evening to wind the clockwork "
    "that turned the lens. In 1958 a storm broke the glass of the lantern room, and for six weeks "
    "the keeper and his daughter lit a fire on the gallery so that the herring fleet could find "
    "the "
    "harbour. The tower was automated in 1986. Today it belongs to the village, which opens it on "
    "Sundays; the money from the tickets pays for the lifeboat.";

constexpr const char kNews[] =
    "The city council of Marlow voted on Tuesday to close the old swimming pool on Bridge "
    "Street at the end of the summer. Repairs to the roof and the filters would cost about "
    "two million pounds, the council's engineer said, and fewer than a hundred people a day "
    "have used the pool this year. A new pool with a cafe and a gym is to be built beside "
    "the railway station by 2027. Residents who live near the old pool said they were not "
    "asked, and have collected four thousand signatures against the plan. The mayor, Helen "
    "Price, said the building could become a library or a market hall. A public meeting will "
    "be held in the town hall on the ninth of May.";

constexpr const char kLetter[] =
    "Dear Ms Hartmann, thank you for your order of 14 March. Unfortunately the oak table in "
    "the size you chose (180 by 90 centimetres) is out of stock until the end of April, "
    "because our supplier in Denmark had a fire in his workshop. We can offer you the same "
    "table in ash at a price of 640 euros, which is 60 euros less, and deliver it next week, "
    "or keep your order and deliver the oak table in the first week of May. In both cases we "
    "would not charge you for delivery. The six chairs are ready and can be sent at once. "
    "Please let us know by Friday which you prefer. If you wish to cancel the order we will "
    "return your deposit of 200 euros within three days. With kind regards, Jonas Weber";

constexpr const char kScience[] =
    "Honeybees tell each other where to find food by dancing. A bee that has found a rich "
    "patch of flowers returns to the hive and runs in a figure of eight on the comb, "
    "waggling her body in the middle part. The direction of this part, measured against the "
    "vertical, gives the direction of the flowers measured against the sun. The longer she "
    "waggles, the farther away the food is; about one second stands for one kilometre. Other "
    "bees follow her in the dark, touching her with their antennae, and then fly out to the "
    "place. Karl von Frisch, who decoded the dance, received the Nobel Prize in 1973. Later "
    "experiments with a robot bee showed that the dance alone is enough to send bees to a "
    "place.";

constexpr const char kRecipe[] =
    "For the bread, mix 500 grams of rye flour with 400 millilitres of warm water, two spoons of "
    "sourdough and ten grams of salt. Cover the bowl with a cloth and leave it in a warm place for "
    "twelve hours. Then knead the dough on a floured table for five minutes, form a loaf and put "
    "it "
    "into a basket. After two more hours heat the oven to 250 degrees with a bowl of water on its "
    "floor. Bake the loaf for fifteen minutes, take out the water, lower the heat to 200 degrees "
    "and "
    "bake it for forty minutes more. The bread is done when it sounds hollow if you knock on its "
    "bottom. Let it cool for at least three hours before you cut it.";

constexpr const char kMinutes[] =
    "Minutes of the garden club, 3 June. Present were eleven members; Mr Okafor was in the chair. "
    "The treasurer reported that the club has 1,240 pounds and that four members have not paid "
    "their fees. It was agreed to write to them before the end of the month. Mrs Lindqvist "
    "proposed to plant an apple tree in front of the school. Two members thought that a cherry "
    "tree would give less work. The proposal was accepted by seven votes to four. The summer "
    "festival will be held on 20 July in the park; Ms Tanaka will ask the council for tables and "
    "benches. The next meeting is on 1 July at half past seven in the library.";

constexpr const char kManual[] =
    "Before you use the coffee machine for the first time, fill the tank with fresh water and let "
    "two tanks run through without coffee. Clean the filter once a week under running water and "
    "never with soap. When the red light blinks, the machine must be descaled: put one bag of the "
    "powder into the tank, fill it up with water, and hold the button for five seconds. The "
    "program takes about twenty minutes and must not be stopped. Afterwards rinse the tank twice. "
    "If the machine does not heat, pull the plug, wait for ten minutes and try again. If the red "
    "light still blinks then, call our service; do not open the machine yourself.";

constexpr const char kHistory[] =
    "The canal between the two rivers was dug from 1817 to 1825, mostly by hand. Engineers had no "
    "school to learn from, so they invented what they needed: a machine that pulled out the stumps "
    "of trees, a plough that cut roots, and a cement that hardened under water. Eighty-three locks "
    "lifted the boats by one hundred and seventy metres. Before the canal, a ton of grain cost one "
    "hundred dollars to carry to the coast and took three weeks; afterwards it cost ten dollars "
    "and took eight days. Towns along the canal grew fast, and the port at its end became the "
    "largest of the country. Railways took over the passengers after 1850, but freight was carried "
    "on the canal for another hundred years.";

constexpr const char kPython[] =
    "def total_price(items, discount):\n"
    "    total = 0\n"
    "    for item in items:\n"
    "        price = item.price * item.count\n"
    "        if item.category == 'book':\n"
    "            price = price * (1 - discount)\n"
    "        total = total + price\n"
    "    return total\n"
    "\n"
    "def print_invoice(customer, items, discount):\n"
    "    print('Invoice for ' + customer.name)\n"
    "    for item in items:\n"
    "        print(item.name + ': ' + str(item.price * item.count))\n"
    "    print('Total: ' + str(total_price(items, discount)))\n";

constexpr const char kCpp[] =
    "#include <vector>\n"
    "\n"
    "double Mean(const std::vector<double>& values) {\n"
    "  double sum = 0;\n"
    "  for (double v : values) sum += v;\n"
    "  return values.empty() ? 0 : sum / values.size();\n"
    "}\n"
    "\n"
    "double Variance(const std::vector<double>& values) {\n"
    "  const double mean = Mean(values);\n"
    "  double sum = 0;\n"
    "  for (double v : values) sum += (v - mean) * (v - mean);\n"
    "  return values.size() < 2 ? 0 : sum / (values.size() - 1);\n"
    "}\n";

constexpr const char kSql[] =
    "CREATE TABLE customers (\n"
    "  id INTEGER PRIMARY KEY,\n"
    "  name TEXT NOT NULL,\n"
    "  city TEXT NOT NULL\n"
    ");\n"
    "CREATE INDEX customers_by_city ON customers (city);\n"
    "INSERT INTO customers (name, city) VALUES ('Ada', 'London');\n"
    "INSERT INTO customers (name, city) VALUES ('Emil', 'Zurich');\n"
    "SELECT city, COUNT(*) FROM customers GROUP BY city ORDER BY city;\n";

constexpr const char kJavaScript[] =
    "const cache = new Map();\n"
    "\n"
    "export async function loadUser(id) {\n"
    "  if (cache.has(id)) return cache.get(id);\n"
    "  const response = await fetch('/users/' + id);\n"
    "  if (!response.ok) throw new Error('no user ' + id);\n"
    "  const user = await response.json();\n"
    "  cache.set(id, user);\n"
    "  return user;\n"
    "}\n"
    "\n"
    "export function forgetUser(id) {\n"
    "  cache.delete(id);\n"
    "}\n";

constexpr const char kJava[] =
    "public class Account {\n"
    "  private long balance = 0;\n"
    "\n"
    "  public void deposit(long cents) {\n"
    "    if (cents <= 0) throw new IllegalArgumentException(\"cents\");\n"
    "    balance += cents;\n"
    "  }\n"
    "\n"
    "  public boolean withdraw(long cents) {\n"
    "    if (cents > balance) return false;\n"
    "    balance -= cents;\n"
    "    return true;\n"
    "  }\n"
    "}\n";

constexpr const char kGo[] =
    "package main\n"
    "\n"
    "import \"fmt\"\n"
    "\n"
    "func largest(numbers []int) int {\n"
    "\tbest := numbers[0]\n"
    "\tfor _, n := range numbers {\n"
    "\t\tif n > best {\n"
    "\t\t\tbest = n\n"
    "\t\t}\n"
    "\t}\n"
    "\treturn best\n"
    "}\n"
    "\n"
    "func main() {\n"
    "\tfmt.Println(largest([]int{3, 9, 4}))\n"
    "}\n";

constexpr const char kHtml[] =
    "<form action=\"/order\" method=\"post\">\n"
    "  <label for=\"name\">Name</label>\n"
    "  <input id=\"name\" name=\"name\" required>\n"
    "  <label for=\"street\">Street</label>\n"
    "  <input id=\"street\" name=\"street\" required>\n"
    "  <label for=\"city\">City</label>\n"
    "  <input id=\"city\" name=\"city\" required>\n"
    "  <button type=\"submit\">Order</button>\n"
    "</form>\n";

constexpr const char kShell[] =
    "#!/bin/bash\n"
    "set -euo pipefail\n"
    "target=/var/backups\n"
    "day=$(date +%F)\n"
    "mkdir -p \"$target/$day\"\n"
    "for folder in /etc /home /srv; do\n"
    "  tar -czf \"$target/$day/$(basename \"$folder\").tar.gz\" \"$folder\"\n"
    "done\n"
    "find \"$target\" -maxdepth 1 -mtime +30 -exec rm -r {} +\n"
    "echo \"saved to $target/$day\"\n";

struct Task {
  std::string name;                   // kind, and which
  std::vector<std::string> messages;  // one for each sequence
  sampling::SamplingParams params;
};

std::vector<Task> MakeTasks(int tokens) {
  const sampling::SamplingParams greedy = {.temperature = 0, .max_tokens = tokens};
  std::vector<Task> tasks;
  // One text says little: how far an answer repeats its input differs from text to text.
  const auto add = [&](const char* kind, const char* name, const std::string& prompt) {
    tasks.push_back({std::string(kind) + " " + name, {prompt}, greedy});
  };
  for (const auto& [name, text] : {std::pair("article", kArticle), std::pair("news", kNews),
                                   std::pair("letter", kLetter), std::pair("science", kScience),
                                   std::pair("recipe", kRecipe), std::pair("minutes", kMinutes),
                                   std::pair("manual", kManual), std::pair("history", kHistory)}) {
    add("quote", name, std::string("Repeat the following text word for word:\n\n") + text);
    add("summarise", name,
        std::string("Summarise the following text in its own words and sentences:\n\n") + text);
    add("extract", name,
        std::string("Summarise the following text by repeating its most important sentences word "
                    "for word:\n\n") +
            text);
  }
  const auto edit = [&](const char* name, const char* what, const char* language,
                        const char* code) {
    add("edit", name,
        std::string(what) + " in this program and print the whole program:\n\n```" + language +
            "\n" + code + "```");
  };
  edit("python", "Rename the variable `total` to `amount`", "python", kPython);
  edit("c++", "Rename the function `Mean` to `Average`", "c++", kCpp);
  edit("sql", "Rename the column `city` to `town`", "sql", kSql);
  edit("javascript", "Rename the function `loadUser` to `getUser`", "javascript", kJavaScript);
  edit("java", "Rename the method `withdraw` to `take`", "java", kJava);
  edit("go", "Rename the function `largest` to `maximum`", "go", kGo);
  edit("html", "Change the label `City` to `Town`", "html", kHtml);
  edit("shell", "Rename the variable `target` to `backups`", "bash", kShell);
  const char* subjects[] = {
      "a fox who learns to sail",  "the last train of the night", "a garden on the moon",
      "two brothers and a violin", "a letter that came late",     "the baker who could not sleep",
      "an island of clocks",       "a robot's first winter",      "the map with no roads",
      "a bridge made of books",    "the girl who drew maps",      "a whale in the harbour",
      "the colour of thunder",     "a chess game by post",        "the house with nine doors",
      "a song nobody remembers"};
  for (const size_t batch : {1, 4, 8, 16}) {
    Task task{"creative x " + std::to_string(batch), {}, greedy};
    task.params.temperature = 0.9f;
    task.params.ignore_eos = true;
    for (size_t i = 0; i < batch; ++i)
      task.messages.push_back(std::string("Write a short story about ") + subjects[i] + ".");
    tasks.push_back(std::move(task));
  }
  return tasks;
}

struct Run {
  double tokens_per_s = 0;
  int64_t us = 0;  // of the steps that said `tokens`
  int64_t tokens = 0, proposed = 0, accepted = 0, slices = 0;
  std::map<size_t, uint64_t> digests;  // by sequence of the task
  struct Steps {
    std::vector<double> us, ratios;  // ratios: to the other engine's last step
    int64_t tokens = 0;
  };
  std::map<int64_t, Steps> steps;  // by rows
  std::vector<int32_t> said;       // by the first sequence
};

std::unique_ptr<engine::Engine> MakeEngine(model::DecoderModel* model, ThreadPool* pool, bool ngram,
                                           int always) {
  engine::EngineOptions options;
  options.num_pages = 1024;
  options.prefix_cache = false;
  options.recent_output_tokens = 0;
  options.pool = pool;
  options.clock_us = SteadyNowUs;
  options.ngram_drafts = ngram;
  if (always > 0) options.max_draft_tokens = always;
  options.adapt_drafts = always == 0;
  if (!ngram) options.max_draft_tokens = 0;
  return engine::Engine::Create(model, options).value();
}

// A task in one engine, step by step.
class TaskRun {
 public:
  TaskRun(engine::Engine* engine, const Task& task,
          const std::vector<std::vector<int32_t>>& prompts)
      : engine_(engine), num_sequences_(prompts.size()), at_start_(engine->Stats()) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      engine::SequenceRequest request{.id = i + 1, .prompt = prompts[i], .params = task.params};
      request.params.seed = 1000 + i;
      if (const auto status = engine->Submit(std::move(request), SteadyNowUs()); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
  }

  bool HasWork() const { return engine_->HasWork(); }
  bool Begun() const { return begun_ == num_sequences_; }  // all have their first token
  int64_t num_tokens() const { return run_.tokens; }

  // `plain_us`: what a step like this took without guesses just now; 0: unknown. Returns its time.
  int64_t Step(int64_t plain_us) {
    const engine::EngineStats before = engine_->Stats();
    const int64_t begin = SteadyNowUs();
    const auto outputs = engine_->Step(begin);
    const int64_t took = SteadyNowUs() - begin;
    const engine::EngineStats after = engine_->Stats();
    if (Begun()) run_.us += took;
    if (after.prefill_tokens == before.prefill_tokens) {
      Run::Steps& steps =
          run_.steps[static_cast<int64_t>(after.decode_slices - before.decode_slices +
                                          after.proposed_tokens - before.proposed_tokens)];
      steps.us.push_back(static_cast<double>(took));
      if (plain_us > 0)
        steps.ratios.push_back(static_cast<double>(took) / static_cast<double>(plain_us));
      steps.tokens += static_cast<int64_t>(after.decode_tokens - before.decode_tokens);
    }
    const bool counts = Begun();
    for (const auto& o : outputs) {
      for (const auto& t : o.tokens) {
        if (o.id == 1) run_.said.push_back(t.token_id);
      }
      run_.digests[o.id - 1] = o.digest;
      begun_ += !o.tokens.empty() && o.first_index == 0 ? 1 : 0;
      if (counts) run_.tokens += static_cast<int64_t>(o.tokens.size());
    }
    return after.prefill_tokens == before.prefill_tokens ? took : 0;
  }

  Run Finish() {
    const engine::EngineStats stats = engine_->Stats();
    run_.proposed = static_cast<int64_t>(stats.proposed_tokens - at_start_.proposed_tokens);
    run_.accepted = static_cast<int64_t>(stats.accepted_tokens - at_start_.accepted_tokens);
    run_.slices = static_cast<int64_t>(stats.decode_slices - at_start_.decode_slices);
    run_.tokens_per_s = static_cast<double>(run_.tokens) * 1e6 / static_cast<double>(run_.us);
    return std::move(run_);
  }

 private:
  engine::Engine* const engine_;
  const size_t num_sequences_;
  const engine::EngineStats at_start_;
  size_t begun_ = 0;
  Run run_;
};

// The task in both engines, the one that has said less always next: so both meet the machine in
// the same moods, which on shared machines change within a second. `first` begins.
std::pair<Run, Run> RunPair(engine::Engine* first, engine::Engine* second, const Task& task,
                            const std::vector<std::vector<int32_t>>& prompts) {
  TaskRun a(first, task, prompts), b(second, task, prompts);
  int64_t us_of_a = 0, us_of_b = 0;
  while (a.HasWork() || b.HasWork()) {
    if (!b.HasWork() || (a.HasWork() && a.num_tokens() <= b.num_tokens())) {
      us_of_a = a.Step(us_of_b);
    } else {
      us_of_b = b.Step(us_of_a);
    }
  }
  return {a.Finish(), b.Finish()};
}

int Main(int argc, char** argv) {
  CLI::App app("N-gram drafts against none.");
  std::string path, only;
  int threads = 2, pairs = 5, tokens = 160, always = 0;
  bool json = false, steps = false, say = false;
  app.add_option("--model", path, "GGUF file or folder with a chat template")->required();
  app.add_option("--threads", threads)->check(CLI::Range(1, 256));
  app.add_option("--pairs", pairs, "runs of each task with and without")->check(CLI::Range(1, 99));
  app.add_option("--tokens", tokens, "output tokens at most")->check(CLI::Range(8, 2048));
  app.add_option("--only", only, "tasks whose name holds this");
  app.add_option("--always", always, "guess that many tokens, whether it pays or not; 0: adapt")
      ->check(CLI::Range(0, 64));
  app.add_flag("--json", json);
  app.add_flag("--steps", steps, "what steps took, by their rows");
  app.add_flag("--text", say, "the first answer of each task");
  CLI11_PARSE(app, argc, argv);
  ThreadPool pool({.num_threads = threads});
  auto model = model::LoadDecoder(path, {.pool = &pool});
  auto text = tokenizer::LoadTextModel(path);
  if (!model.ok() || !text.ok()) {
    std::fprintf(stderr, "%s\n", (model.ok() ? text.status() : model.status()).ToString().c_str());
    return 1;
  }
  const auto with = MakeEngine(model->get(), &pool, true, always);
  const auto without = MakeEngine(model->get(), &pool, false, 0);
  std::map<std::string, std::vector<double>> kinds;  // median ratios
  for (const Task& task : MakeTasks(tokens)) {
    if (task.name.find(only) == std::string::npos) continue;
    const std::string kind = task.name.substr(0, task.name.find(' '));
    std::vector<std::vector<int32_t>> prompts;
    for (const std::string& message : task.messages) {
      tokenizer::TemplateInput input;
      input.messages = nlohmann::ordered_json::array({{{"role", "user"}, {"content", message}}});
      input.add_generation_prompt = true;
      const auto rendered = text->Render(std::move(input));
      if (!rendered.ok()) {
        std::fprintf(stderr, "%s\n", rendered.status().ToString().c_str());
        return 1;
      }
      prompts.push_back(text->tokenizer->Encode(*rendered, {.parse_special = true}));
    }
    RunPair(with.get(), without.get(), task, prompts);  // warm up
    std::vector<double> off, on, ratio;
    Run last;
    for (int pair = 0; pair < pairs; ++pair) {
      const bool first = pair % 2 == 0;
      auto [a, b] = first ? RunPair(with.get(), without.get(), task, prompts)
                          : RunPair(without.get(), with.get(), task, prompts);
      if (a.digests != b.digests) {
        std::fprintf(stderr, "%s: the digests differ\n", task.name.c_str());
        return 1;
      }
      if (!first) std::swap(a, b);
      on.push_back(a.tokens_per_s);
      off.push_back(b.tokens_per_s);
      ratio.push_back(a.tokens_per_s / b.tokens_per_s);
      last = std::move(a);
    }
    kinds[kind].push_back(Median(ratio));
    const double per_step = static_cast<double>(last.slices + last.accepted) /
                            static_cast<double>(std::max<int64_t>(last.slices, 1));
    if (json) {
      std::printf(
          "{\"task\": \"%s\", \"off\": %.2f, \"ngram\": %.2f, \"ratio\": %.4f, "
          "\"tokens_per_step\": "
          "%.3f, \"proposed\": %lld, \"accepted\": %lld}\n",
          task.name.c_str(), Median(off), Median(on), Median(ratio), per_step,
          static_cast<long long>(last.proposed), static_cast<long long>(last.accepted));
    } else {
      std::printf(
          "%-14s off %7.1f tok/s, ngram %7.1f tok/s, ratio %5.3f (%.3f to %.3f); %4.2f tokens a "
          "step, %lld of %lld guesses right\n",
          task.name.c_str(), Median(off), Median(on), Median(ratio),
          *std::min_element(ratio.begin(), ratio.end()),
          *std::max_element(ratio.begin(), ratio.end()), per_step,
          static_cast<long long>(last.accepted), static_cast<long long>(last.proposed));
    }
    for (const auto& [rows, s] : last.steps) {
      if (!steps) break;
      std::printf(
          "  %3lld rows: %4zu steps, median %6.0f us, %.2f of a step without guesses, "
          "%.2f tokens each\n",
          static_cast<long long>(rows), s.us.size(), Median(s.us), Median(s.ratios),
          static_cast<double>(s.tokens) / static_cast<double>(s.us.size()));
    }
    if (say) std::printf("%s\n", text->tokenizer->decoder()->Decode(last.said, false).c_str());
    std::fflush(stdout);
  }
  std::vector<double> grounded;
  for (const auto& [kind, ratios] : kinds) {
    if (kind != "creative") grounded.insert(grounded.end(), ratios.begin(), ratios.end());
    Summary(kind, ratios, json);
  }
  Summary("all but creative", grounded, json);
  return 0;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
