#include <algorithm>
#include <list>
#include <mutex>
#include <unordered_map>

#include "shared/base/strings.h"
#include "shared/store/journal.h"

namespace tutti::store {
namespace {

int64_t BytesOf(const Token& t) {
  return static_cast<int64_t>(sizeof(Token) + t.top.size() * sizeof(TopLogprob) +
                              (t.text.size() > 15 ? t.text.size() : 0));
}

int64_t BytesOf(std::span<const Token> tokens) {
  int64_t n = 0;
  for (const Token& t : tokens) n += BytesOf(t);
  return n;
}

int64_t BytesOf(const RequestRecord& r) {
  return static_cast<int64_t>(256 + r.request_id.size() + r.model.size() + r.prompt_text.size() +
                              r.request.size() + r.prompt_ids.size() * sizeof(int32_t));
}

int64_t BytesOf(const Finish& f) {
  size_t n = sizeof(Finish) + f.tail_text.size();
  for (const Beam& b : f.beams)
    n += sizeof(Beam) + b.text.size() + b.token_ids.size() * sizeof(int32_t);
  return static_cast<int64_t>(n);
}

class MemoryJournal : public Journal {
 public:
  explicit MemoryJournal(const JournalOptions& options) : options_(options) {}

  absl::Status Create(const RequestRecord& record, int64_t now_us) override {
    if (record.request_id.empty()) return absl::InvalidArgumentError("request_id: empty");
    if (record.num_choices < 1) {
      return absl::InvalidArgumentError("num_choices: " + std::to_string(record.num_choices) +
                                        ", must be at least 1");
    }
    std::lock_guard<std::mutex> lock(mu_);
    Expire(now_us);
    if (index_.count(record.request_id) != 0) {
      return absl::AlreadyExistsError("request_id: " + Printable(record.request_id) +
                                      " is in the journal already");
    }
    entries_.emplace_back();
    Entry& entry = entries_.back();
    entry.stored.request = record;
    entry.stored.choices.resize(static_cast<size_t>(record.num_choices));
    index_[record.request_id] = std::prev(entries_.end());
    Grow(entry, BytesOf(record) + record.num_choices * static_cast<int64_t>(sizeof(ChoiceRecord)));
    entry.written_us = now_us;
    Evict();
    return absl::OkStatus();
  }

  absl::Status SetPromptTokens(std::string_view id, uint32_t index, std::span<const Token> tokens,
                               int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Entry* entry = nullptr;
    TUTTI_ASSIGN_OR_RETURN(ChoiceRecord * choice, Find(id, index, now_us, &entry));
    Grow(*entry, BytesOf(tokens) - BytesOf(choice->prompt_tokens));
    choice->prompt_tokens.assign(tokens.begin(), tokens.end());
    Evict();
    return absl::OkStatus();
  }

  absl::Status Append(std::string_view id, uint32_t index, uint32_t first_index,
                      std::span<const Token> tokens, int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Entry* entry = nullptr;
    TUTTI_ASSIGN_OR_RETURN(ChoiceRecord * choice, Find(id, index, now_us, &entry));
    std::vector<Token>& have = choice->tokens;
    if (first_index > have.size()) {
      return absl::OutOfRangeError("first_index: " + std::to_string(first_index) + ", but only " +
                                   std::to_string(have.size()) + " tokens are stored");
    }
    const size_t overlap = std::min(tokens.size(), have.size() - first_index);
    for (size_t i = 0; i < overlap; ++i) {
      const Token& old = have[first_index + i];
      if (old.id != tokens[i].id || old.digest != tokens[i].digest) {
        return absl::DataLossError("token " + std::to_string(first_index + i) + " of choice " +
                                   std::to_string(index) + " is stored with another id or digest");
      }
    }
    if (overlap == tokens.size()) return absl::OkStatus();
    if (choice->finish.has_value()) {
      return absl::FailedPreconditionError("choice " + std::to_string(index) +
                                           " is finished with " + std::to_string(have.size()) +
                                           " tokens");
    }
    const auto added = tokens.subspan(overlap);
    Grow(*entry, BytesOf(added));
    have.insert(have.end(), added.begin(), added.end());
    Evict();
    return absl::OkStatus();
  }

  absl::Status FinishChoice(std::string_view id, uint32_t index, const Finish& finish,
                            int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Entry* entry = nullptr;
    TUTTI_ASSIGN_OR_RETURN(ChoiceRecord * choice, Find(id, index, now_us, &entry));
    if (choice->finish.has_value()) return absl::OkStatus();
    Grow(*entry, BytesOf(finish));
    choice->finish = finish;
    Evict();
    return absl::OkStatus();
  }

  absl::StatusOr<StoredRequest> Load(std::string_view id, int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Expire(now_us);
    const auto it = index_.find(std::string(id));
    if (it == index_.end()) return NotFound(id);
    return it->second->stored;
  }

  bool Contains(std::string_view id, int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Expire(now_us);
    return index_.count(std::string(id)) != 0;
  }

  int64_t num_requests(int64_t now_us) override {
    std::lock_guard<std::mutex> lock(mu_);
    Expire(now_us);
    return static_cast<int64_t>(index_.size());
  }

  void Clear() override {
    std::lock_guard<std::mutex> lock(mu_);
    entries_.clear();
    index_.clear();
    bytes_ = 0;
  }

 private:
  struct Entry {
    StoredRequest stored;
    int64_t written_us = 0;
    int64_t bytes = 0;
  };
  using Entries = std::list<Entry>;  // least recently written first

  static absl::Status NotFound(std::string_view id) {
    return absl::NotFoundError("request_id: " + Printable(id) +
                               " is not in the journal (never seen, or expired)");
  }

  // The choice, with its entry moved to the back of the queue.
  absl::StatusOr<ChoiceRecord*> Find(std::string_view id, uint32_t index, int64_t now_us,
                                     Entry** entry) {
    Expire(now_us);
    const auto it = index_.find(std::string(id));
    if (it == index_.end()) return NotFound(id);
    if (index >= it->second->stored.choices.size()) {
      return absl::InvalidArgumentError("index: " + std::to_string(index) + ", the request has " +
                                        std::to_string(it->second->stored.choices.size()) +
                                        " choices");
    }
    entries_.splice(entries_.end(), entries_, it->second);
    it->second->written_us = now_us;
    *entry = &*it->second;
    return &it->second->stored.choices[index];
  }

  void Grow(Entry& entry, int64_t bytes) {
    entry.bytes += bytes;
    bytes_ += bytes;
  }

  void DropFront() {
    bytes_ -= entries_.front().bytes;
    index_.erase(entries_.front().stored.request.request_id);
    entries_.pop_front();
  }

  void Expire(int64_t now_us) {
    while (!entries_.empty() && now_us - entries_.front().written_us >= options_.ttl_us)
      DropFront();
  }

  // Keeps the bounds; the entry just written is at the back and stays, whatever its size.
  void Evict() {
    while (entries_.size() > 1 && (static_cast<int64_t>(entries_.size()) > options_.max_requests ||
                                   bytes_ > options_.max_bytes)) {
      DropFront();
    }
  }

  const JournalOptions options_;
  std::mutex mu_;
  Entries entries_;
  std::unordered_map<std::string, Entries::iterator> index_;
  int64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<Journal> MakeMemoryJournal(const JournalOptions& options) {
  return std::make_unique<MemoryJournal>(options);
}

}  // namespace tutti::store
