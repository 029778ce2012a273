#include "shared/tokenizer/added_tokens.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {
namespace {

// The character before `at`; at > begin.
CodePoint Before(std::string_view text, uint32_t begin, uint32_t at) {
  uint32_t p = at - 1;
  while (p > begin && at - p < 4 && (static_cast<uint8_t>(text[p]) & 0xC0) == 0x80) --p;
  const CodePoint c = DecodeUtf8(text.data() + p, text.data() + at);
  return p + c.length == at ? c : CodePoint{kNoCodePoint, 1};
}

bool TouchesWord(std::string_view text, uint32_t begin, uint32_t end, uint32_t from, uint32_t to) {
  const CharTable& table = Chars();
  return (from > begin && (FlagsOf(table, Before(text, begin, from).value) & kWord)) ||
         (to < end &&
          (FlagsOf(table, DecodeUtf8(text.data() + to, text.data() + end).value) & kWord));
}

}  // namespace

bool IsBroken(std::span<const uint32_t> breaks, uint32_t begin, uint32_t end) {
  const auto next = std::upper_bound(breaks.begin(), breaks.end(), begin);
  return next != breaks.end() && *next < end;
}

absl::StatusOr<AddedTokenFinder> AddedTokenFinder::Make(std::vector<AddedToken> tokens) {
  AddedTokenFinder f;
  f.tokens_ = std::move(tokens);
  size_t total = 0;
  for (const AddedToken& t : f.tokens_) total += t.content.size();
  if (total > size_t{16} << 20)
    return absl::InvalidArgumentError("added_tokens: over 16 MB of text");
  std::map<uint32_t, uint32_t> edges;
  f.token_of_.push_back(-1);
  f.leads_to_special_.push_back(false);
  for (size_t i = 0; i < f.tokens_.size(); ++i) {
    const std::string& content = f.tokens_[i].content;
    if (content.empty() || content.size() > kMaxTokenBytes) {
      return absl::InvalidArgumentError(absl::StrCat("added_tokens[", i,
                                                     "].content: ", content.size(), " bytes; 1 to ",
                                                     kMaxTokenBytes, " are supported"));
    }
    uint32_t node = 0;
    for (const char c : content) {
      const uint32_t key = node << 8 | static_cast<uint8_t>(c);
      const auto [it, fresh] = edges.try_emplace(key, static_cast<uint32_t>(f.token_of_.size()));
      if (fresh) {
        f.token_of_.push_back(-1);
        f.leads_to_special_.push_back(false);
      }
      node = it->second;
      if (f.tokens_[i].special) f.leads_to_special_[node] = true;
    }
    f.token_of_[node] = static_cast<int32_t>(i);
    f.starts_[static_cast<uint8_t>(content[0])] = true;
  }
  f.edges_.reserve(edges.size());
  for (const auto& [key, child] : edges) f.edges_.push_back({key, child});
  return f;
}

uint32_t AddedTokenFinder::Child(uint32_t node, char c) const {
  const uint32_t key = node << 8 | static_cast<uint8_t>(c);
  const auto it = std::lower_bound(edges_.begin(), edges_.end(), key,
                                   [](const Edge& e, uint32_t k) { return e.node_and_byte < k; });
  return it == edges_.end() || it->node_and_byte != key ? 0 : it->child;
}

int AddedTokenFinder::Longest(std::string_view text, uint32_t at, uint32_t end) const {
  int best = -1;
  uint32_t node = 0;
  for (; at < end; ++at) {
    node = Child(node, text[at]);
    if (node == 0) break;
    if (token_of_[node] >= 0) best = token_of_[node];
  }
  return best;
}

void AddedTokenFinder::Find(std::string_view text, uint32_t begin, uint32_t end, bool with_special,
                            std::vector<Segment>* out, std::span<const uint32_t> breaks) const {
  const CharTable& table = Chars();
  uint32_t done = begin;  // everything before it is in `out`
  for (uint32_t at = begin; at < end;) {
    if (!starts_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const int hit = Longest(text, at, end);
    if (hit < 0) {
      ++at;
      continue;
    }
    const AddedToken& t = tokens_[hit];
    uint32_t from = at, to = at + static_cast<uint32_t>(t.content.size());
    at = to;
    if (t.special && !with_special) continue;
    if (t.special && IsBroken(breaks, from, to)) {
      at = from + 1;  // another one may begin inside
      continue;
    }
    if (t.single_word && TouchesWord(text, begin, end, from, to)) continue;
    if (from < done) continue;  // the one before took it along
    if (t.lstrip) {
      while (from > done) {
        const CodePoint c = Before(text, done, from);
        if (!(FlagsOf(table, c.value) & kSpace)) break;
        from -= c.length;
      }
    }
    if (t.rstrip) {
      while (to < end) {
        const CodePoint c = DecodeUtf8(text.data() + to, text.data() + end);
        if (!(FlagsOf(table, c.value) & kSpace)) break;
        to += c.length;
      }
    }
    if (done < from) out->push_back({done, from, -1});
    out->push_back({from, to, t.id});
    done = to;
  }
  if (done < end) out->push_back({done, end, -1});
}

void AddedTokenFinder::SpecialBreaks(std::string_view text, std::vector<uint32_t>* out) const {
  const auto end = static_cast<uint32_t>(text.size());
  for (uint32_t begin = 0; begin < end; ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    const uint32_t behind =
        begin + static_cast<uint32_t>(DecodeUtf8(text.data() + begin, text.data() + end).length);
    uint32_t node = 0, at = begin;
    bool found = false;
    for (; at < end && !found; ++at) {
      node = Child(node, text[at]);
      if (node == 0) break;
      found = token_of_[node] >= 0 && tokens_[token_of_[node]].special && at + 1 > behind;
      if (!found && at + 1 == end) found = leads_to_special_[node] && end > behind;
    }
    if (found && (out->empty() || out->back() < behind)) out->push_back(behind);
  }
}

}  // namespace tutti::tokenizer
