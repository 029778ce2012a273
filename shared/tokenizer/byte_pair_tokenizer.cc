#include "shared/tokenizer/byte_pair_tokenizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/byte_alphabet.h"

namespace tutti::tokenizer {
namespace {

// Decodes by the vocabulary that the tokenizer holds anyway.
class VocabularyDecoder final : public TokenDecoder {
 public:
  VocabularyDecoder(std::shared_ptr<const Vocabulary> vocabulary,
                    const std::vector<AddedToken>& added)
      : vocabulary_(std::move(vocabulary)), special_(vocabulary_->size()) {
    for (const AddedToken& t : added) special_[t.id] = special_[t.id] || t.special;
  }
  int vocab_size() const override { return vocabulary_->size(); }
  std::string_view Bytes(int32_t id) const override { return vocabulary_->Bytes(id); }
  bool IsSpecial(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override {
    return DecodeBytes(*this, ids, skip_special);
  }

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<bool> special_;
};

// What one call of Encode works with. Kept per thread between calls; buffers that grew past 4 MB
// go.
struct Scratch {
  std::vector<Segment> segments, inner;
  std::vector<Piece> pieces, cut;
  BpeScratch bpe;
  std::vector<int32_t> lengths;
  std::string normal, other, prefixed;

  void Shrink() {
    constexpr size_t kKeep = size_t{1} << 20;
    const auto trim = [&](auto& v) {
      if (v.capacity() > kKeep) std::remove_reference_t<decltype(v)>().swap(v);
    };
    trim(segments), trim(inner), trim(pieces), trim(cut), trim(lengths);
    trim(bpe.ids), trim(bpe.prev), trim(bpe.next), trim(bpe.lengths), trim(bpe.heap);
    trim(normal), trim(other), trim(prefixed);
  }
};

using Range = std::pair<uint32_t, uint32_t>;

// A stretch of text on its way through the stages, and where its bytes came from.
struct Stretch {
  std::string_view text;
  std::string_view original;  // the whole input, for offsets
  uint32_t base = 0;          // where text begins in it, when nothing changed it
  const Alignment* alignment = nullptr;

  // The original characters that byte `i` of the text came from.
  Range Origin(uint32_t i) const {
    if (alignment != nullptr) return (*alignment)[i];
    uint32_t b = base + i, e = b + 1;
    const auto tail = [&](uint32_t at) {
      return (static_cast<uint8_t>(original[at]) & 0xC0) == 0x80;
    };
    while (b > 0 && base + i - b < 3 && tail(b)) --b;
    while (e < original.size() && e - b < 4 && tail(e)) ++e;
    return {b, e};
  }
};

class BytePairTokenizer final : public Tokenizer {
 public:
  BytePairTokenizer(BpeModel model, BytePairSpec spec, AddedTokenFinder raw,
                    AddedTokenFinder normalized, std::vector<std::unique_ptr<Splitter>> splitters,
                    std::shared_ptr<const TokenDecoder> decoder)
      : model_(std::move(model)),
        spec_(std::move(spec)),
        raw_(std::move(raw)),
        normalized_(std::move(normalized)),
        splitters_(std::move(splitters)),
        decoder_(std::move(decoder)) {
    fingerprint_ = Fingerprint();
  }

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    Run(text, options, &ids, nullptr);
    return ids;
  }

  Encoding EncodeWithOffsets(std::string_view text, const EncodeOptions& options) const override {
    Encoding out;
    Run(text, options, &out.ids, &out.offsets);
    return out;
  }

  std::vector<uint32_t> SpecialBreaks(std::string_view text) const override {
    std::vector<uint32_t> out;
    raw_.SpecialBreaks(text, &out);
    if (!normalized_.empty()) {
      const size_t raw = out.size();
      normalized_.SpecialBreaks(text, &out);
      std::inplace_merge(out.begin(), out.begin() + static_cast<ptrdiff_t>(raw), out.end());
      out.erase(std::unique(out.begin(), out.end()), out.end());
    }
    return out;
  }

  std::shared_ptr<const TokenDecoder> decoder() const override { return decoder_; }
  std::string_view TokenText(int32_t id) const override { return model_.vocabulary().Text(id); }
  int32_t TokenId(std::string_view text) const override { return model_.vocabulary().Id(text); }
  int vocab_size() const override { return model_.vocabulary().size(); }
  int32_t bos_id() const override { return spec_.bos_id; }
  int32_t eos_id() const override { return spec_.eos_id; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  void Run(std::string_view text, const EncodeOptions& options, std::vector<int32_t>* ids,
           std::vector<Range>* offsets) const {
    thread_local Scratch scratch;
    if (options.add_special) Put(spec_.prefix_ids, ids, offsets);
    scratch.segments.clear();
    raw_.Find(text, 0, static_cast<uint32_t>(text.size()), options.parse_special, &scratch.segments,
              options.breaks);
    for (const Segment& segment : scratch.segments) {
      if (segment.id >= 0) {
        ids->push_back(segment.id);
        if (offsets != nullptr) offsets->push_back({segment.begin, segment.end});
      } else {
        Normal(text, segment, options, &scratch, ids, offsets);
      }
    }
    if (offsets != nullptr && spec_.trim_offsets)
      Trim(options.add_special ? spec_.prefix_ids.size() : 0, *ids, offsets);
    if (options.add_special) Put(spec_.suffix_ids, ids, offsets);
    scratch.Shrink();
  }

  static void Put(const std::vector<int32_t>& extra, std::vector<int32_t>* ids,
                  std::vector<Range>* offsets) {
    ids->insert(ids->end(), extra.begin(), extra.end());
    if (offsets != nullptr) offsets->insert(offsets->end(), extra.size(), {0, 0});
  }

  // Normalises a segment, and finds the tokens that are looked for only then.
  void Normal(std::string_view text, const Segment& segment, const EncodeOptions& options,
              Scratch* scratch, std::vector<int32_t>* ids, std::vector<Range>* offsets) const {
    Stretch s{text.substr(segment.begin, segment.end - segment.begin), text, segment.begin,
              nullptr};
    Alignment alignment, step;
    for (const NormalForm form : spec_.normalizers) {
      if (!Normalize(form, s.text, &scratch->other, offsets != nullptr ? &step : nullptr)) continue;
      if (offsets != nullptr) {
        for (Range& r : step)
          r = {s.Origin(r.first).first, s.Origin(std::max(r.second, 1u) - 1).second};
        alignment.swap(step);
        s.alignment = &alignment;
      }
      scratch->normal.swap(scratch->other);
      s.text = scratch->normal;
    }
    const auto size = static_cast<uint32_t>(s.text.size());
    if (normalized_.empty()) return Words(s, {0, size}, scratch, ids, offsets);
    scratch->inner.clear();
    // After normalisation the places of breaks are lost: a stretch with one has no special tokens
    // of this (rare) sort.
    const bool broken = IsBroken(options.breaks, segment.begin, segment.end);
    normalized_.Find(s.text, 0, size, options.parse_special && !broken, &scratch->inner);
    for (const Segment& inner : scratch->inner) {
      if (inner.id < 0) {
        Words(s, {inner.begin, inner.end}, scratch, ids, offsets);
        continue;
      }
      ids->push_back(inner.id);
      if (offsets != nullptr)
        offsets->push_back({s.Origin(inner.begin).first, s.Origin(inner.end - 1).second});
    }
  }

  // Cuts a stretch into words and encodes them.
  void Words(Stretch s, Piece piece, Scratch* scratch, std::vector<int32_t>* ids,
             std::vector<Range>* offsets) const {
    if (piece.begin == piece.end) return;
    Alignment alignment;
    if (spec_.add_prefix_space && s.text[piece.begin] != ' ') {
      scratch->prefixed.assign(1, ' ').append(s.text.substr(piece.begin, piece.end - piece.begin));
      if (offsets != nullptr) {
        alignment.push_back(s.Origin(piece.begin));
        for (uint32_t i = piece.begin; i < piece.end; ++i) alignment.push_back(s.Origin(i));
        s.alignment = &alignment;
      }
      s.text = scratch->prefixed;
      piece = {0, static_cast<uint32_t>(s.text.size())};
    }
    auto& pieces = scratch->pieces;
    pieces.assign(1, piece);
    for (const auto& splitter : splitters_) {
      scratch->cut.clear();
      for (const Piece& p : pieces) splitter->Split(s.text, p, &scratch->cut);
      pieces.swap(scratch->cut);
    }
    for (const Piece& p : pieces) {
      const std::string_view word = s.text.substr(p.begin, p.end - p.begin);
      if (offsets == nullptr) {
        model_.Encode(word, &scratch->bpe, ids);
        continue;
      }
      scratch->lengths.clear();
      model_.EncodeWithLengths(word, &scratch->bpe, ids, &scratch->lengths);
      WordOffsets(s, p, scratch->lengths, offsets);
    }
  }

  // Lengths of tokens in the vocabulary's writing -> byte offsets. Bytes that were dropped take no
  // room, so what follows them in the word moves up, as in Hugging Face tokenizers.
  static void WordOffsets(const Stretch& s, Piece p, const std::vector<int32_t>& lengths,
                          std::vector<Range>* offsets) {
    uint32_t at = p.begin;  // the byte being written
    int32_t written = 0;    // where its writing begins
    int32_t begin = 0;
    const auto advance_to = [&](int32_t position) {
      for (;;) {
        const int32_t width = Alphabet().WrittenLength(static_cast<uint8_t>(s.text[at]));
        if (position < written + width || at + 1 >= p.end) return;
        written += width;
        ++at;
      }
    };
    for (const int32_t length : lengths) {
      advance_to(begin);
      const uint32_t first = s.Origin(at).first;
      advance_to(begin + length - 1);
      offsets->push_back({first, s.Origin(at).second});
      begin += length;
    }
  }

  // What a ByteLevel post-processor with trim_offsets does.
  void Trim(size_t from, const std::vector<int32_t>& ids, std::vector<Range>* offsets) const {
    for (size_t i = from; i < ids.size(); ++i) {
      const std::string_view bytes = model_.vocabulary().Bytes(ids[i]);
      auto& [begin, end] = (*offsets)[i];
      auto leading = static_cast<uint32_t>(std::min(bytes.find_first_not_of(' '), bytes.size()));
      const size_t last = bytes.find_last_not_of(' ');
      const auto trailing = static_cast<uint32_t>(
          last == std::string_view::npos ? bytes.size() : bytes.size() - 1 - last);
      if (leading > 0 && (i == from || begin == 0) && spec_.trim_keeps_first_space) --leading;
      begin = std::min(begin + leading, end);
      if (trailing > 0 && end >= trailing) end = std::max(end - trailing, begin);
    }
  }

  uint64_t Fingerprint() const {
    const Vocabulary& v = model_.vocabulary();
    uint64_t h = Hash64(std::string_view("tutti byte-level BPE 1"), model_.merges_hash());
    const auto number = [&](uint64_t n) { h = Hash64(&n, sizeof(n), h); };
    const auto text = [&](std::string_view s) {
      number(s.size());
      h = Hash64(s, h);
    };
    number(v.size());
    for (int32_t id = 0; id < v.size(); ++id) text(v.Text(id));
    for (const AddedToken& t : spec_.added_tokens) {
      text(t.content);
      number(t.id);
      number(t.single_word | t.lstrip << 1 | t.rstrip << 2 | t.normalized << 3 | t.special << 4);
    }
    for (const NormalForm f : spec_.normalizers) number(static_cast<uint64_t>(f) + 1);
    for (const SplitSpec& s : spec_.splits) {
      text(s.pattern);
      number(static_cast<uint64_t>(s.behavior) << 2 | s.literal << 1 | uint64_t{s.invert});
    }
    text(spec_.unk_token);
    number(spec_.add_prefix_space | spec_.fuse_unk << 1 | spec_.ignore_merges << 2);
    for (const int32_t id : spec_.prefix_ids) number(id);
    number(spec_.prefix_ids.size());
    for (const int32_t id : spec_.suffix_ids) number(id);
    return h;
  }

  BpeModel model_;
  BytePairSpec spec_;  // without vocab and merges
  AddedTokenFinder raw_, normalized_;
  std::vector<std::unique_ptr<Splitter>> splitters_;
  std::shared_ptr<const TokenDecoder> decoder_;
  uint64_t fingerprint_ = 0;
};

absl::StatusOr<std::shared_ptr<const Vocabulary>> MakeVocabulary(const BytePairSpec& spec) {
  std::vector<Vocabulary::Entry> model, added;
  model.reserve(spec.vocab.size());
  for (const auto& t : spec.vocab) model.push_back({t.text, t.id});
  for (const AddedToken& t : spec.added_tokens) added.push_back({t.content, t.id});
  TUTTI_ASSIGN_OR_RETURN(auto vocabulary, Vocabulary::Make(model, added));
  std::string bytes;
  for (size_t i = 0; i < spec.added_tokens.size(); ++i) {
    const AddedToken& t = spec.added_tokens[i];
    int32_t id = vocabulary->Id(t.content);
    bytes.clear();
    if (Alphabet().Read(t.content, &bytes)) {
      if (const int32_t of_model = vocabulary->IdOfBytes(bytes); of_model >= 0) id = of_model;
    }
    if (id >= 0 && id != t.id) {
      return absl::InvalidArgumentError(absl::StrCat("added_tokens[", i, "]: \"",
                                                     Printable(t.content), "\" has id ", t.id,
                                                     " here and ", id, " elsewhere"));
    }
  }
  return vocabulary;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeBytePairTokenizer(BytePairSpec spec) {
  TUTTI_ASSIGN_OR_RETURN(auto vocabulary, MakeVocabulary(spec));
  const int size = vocabulary->size();
  for (const auto* list : {&spec.prefix_ids, &spec.suffix_ids}) {
    for (const int32_t id : *list) {
      if (id < 0 || id >= size) {
        return absl::InvalidArgumentError(
            absl::StrCat("post_processor: id ", id, " is not in the vocabulary of ", size));
      }
    }
  }
  if (spec.bos_id >= size) spec.bos_id = -1;
  if (spec.eos_id >= size) spec.eos_id = -1;

  BpeOptions options{.ignore_merges = spec.ignore_merges, .unk_id = -1, .fuse_unk = spec.fuse_unk};
  if (!spec.unk_token.empty()) {
    options.unk_id = vocabulary->Id(spec.unk_token);
    if (options.unk_id < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.unk_token: \"", Printable(spec.unk_token), "\" is not in the vocabulary"));
    }
  }
  std::vector<std::pair<std::string_view, std::string_view>> merges(spec.merges.begin(),
                                                                    spec.merges.end());
  TUTTI_ASSIGN_OR_RETURN(BpeModel model, BpeModel::Make(vocabulary, merges, options));
  spec.vocab = {};
  spec.merges = {};

  std::sort(spec.added_tokens.begin(), spec.added_tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  std::vector<AddedToken> raw, normalized;
  for (AddedToken t : spec.added_tokens) {
    if (!t.normalized) {
      raw.push_back(std::move(t));
      continue;
    }
    std::string normal;
    for (const NormalForm form : spec.normalizers) {
      if (Normalize(form, t.content, &normal, nullptr)) t.content.swap(normal);
    }
    normalized.push_back(std::move(t));
  }
  auto decoder = std::make_shared<VocabularyDecoder>(vocabulary, spec.added_tokens);
  TUTTI_ASSIGN_OR_RETURN(auto raw_finder, AddedTokenFinder::Make(std::move(raw)));
  TUTTI_ASSIGN_OR_RETURN(auto normalized_finder, AddedTokenFinder::Make(std::move(normalized)));
  TUTTI_ASSIGN_OR_RETURN(auto splitters, MakeSplitters(spec.splits));
  return std::make_shared<const BytePairTokenizer>(
      std::move(model), std::move(spec), std::move(raw_finder), std::move(normalized_finder),
      std::move(splitters), std::move(decoder));
}

}  // namespace tutti::tokenizer
