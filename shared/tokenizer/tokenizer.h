// Text <-> token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "shared/base/status.h"
#include "shared/weights/model_files.h"

namespace tutti::tokenizer {

struct EncodeOptions {
  bool parse_special = false;  // text of special tokens becomes those tokens
  bool add_special = false;    // what the post-processor adds (BOS, EOS, templates)
  // Byte offsets into the text, ascending, borrowed for the call: no special token is found across
  // one of them. So the text of special tokens inside a chat's messages stays text, while the
  // template's own become tokens (TextModel::RenderChat makes the offsets).
  std::span<const uint32_t> breaks;
};

struct Encoding {
  std::vector<int32_t> ids;
  // [start, end) byte offsets into the text; a token holding part of a character gets the whole
  // character. Filled by EncodeWithOffsets alone. Tokens added by add_special have {0, 0}.
  std::vector<std::pair<uint32_t, uint32_t>> offsets;
};

// How ids turn into text, without the rest of the tokenizer: the router holds one per model.
// Immutable, shareable.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  virtual int vocab_size() const = 0;
  // Raw bytes of a token as it stands in running text; empty for unknown ids and holes.
  virtual std::string_view Bytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // All of them; invalid UTF-8 becomes U+FFFD, as tokenizers' decode does.
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;
};

// Detokenises a stream: returns the text that each token completes, never part of a UTF-8 sequence.
// Bytes that can no longer become a character come out as U+FFFD, with the next whole character (as
// tokenizers' DecodeStream does it); Flush gives what is pending at the end. The concatenation
// equals Decode of all ids. Copyable: a copy is a checkpoint.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const TokenDecoder> decoder, bool skip_special)
      : decoder_(std::move(decoder)), skip_special_(skip_special) {}
  std::string Push(int32_t id);
  std::string Flush();

 private:
  std::shared_ptr<const TokenDecoder> decoder_;
  bool skip_special_;
  std::string pending_;
  std::vector<int32_t> context_;  // for decoders whose text depends on neighbours
};

// Immutable, shareable between threads. Encoding is exact and never fails on any bytes; bytes that
// are not UTF-8 are an error of the caller (services check before).
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;
  virtual Encoding EncodeWithOffsets(std::string_view text, const EncodeOptions& options) const = 0;
  virtual std::shared_ptr<const TokenDecoder> decoder() const = 0;
  // Byte offsets in `text`, ascending, such that breaks there leave no special token to be found in
  // it: behind the first character of each that begins in it, whole or cut off by the end of the
  // text (what follows it could complete it). A token of a single character cannot be broken.
  virtual std::vector<uint32_t> SpecialBreaks(std::string_view text) const = 0;

  // The token's form in the vocabulary ("Ġthe"), and back; "" / -1 when unknown.
  virtual std::string_view TokenText(int32_t id) const = 0;
  virtual int32_t TokenId(std::string_view text) const = 0;

  virtual int vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;
  // Hash over vocabulary, merges, split pattern and special tokens: equal ones give equal ids.
  virtual uint64_t fingerprint() const = 0;
};

// From GGUF metadata, from a folder's tokenizer.json, from a packed directory (whichever its source
// had), or from a tokenizer.json itself.
// Errors: NOT_FOUND; DATA_LOSS a packed directory is damaged; INVALID_ARGUMENT names the field;
// UNIMPLEMENTED names the tokenizer type.
absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& path);
absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromModel(
    const weights::ModelFiles& files);
// From the text of a tokenizer.json and, when there is one, of the tokenizer_config.json beside it
// (it names the BOS and EOS tokens). The tokenizer.json's truncation and padding are left to the
// caller.
absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromJson(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json = {});

// A decoder from its parts, as TokenizerService.GetVocabulary sends them.
struct DecoderTable {
  std::vector<std::string> bytes;  // [vocab]
  std::vector<bool> special;       // [vocab]
};
std::shared_ptr<const TokenDecoder> MakeByteDecoder(DecoderTable table);

// SHA-256 over all that the table says (every token's bytes and whether it is special) and the two
// ids: whoever holds the model's file can tell whether a vocabulary that came over the network is
// the file's. Equal digests mean equal detokenised text. Cost: 1 ms for 50,000 tokens.
std::string VocabularyDigest(const TokenDecoder& decoder, int32_t bos_id, int32_t eos_id);

// What Decode is for a decoder whose text is just its tokens' bytes one after the other.
std::string DecodeBytes(const TokenDecoder& decoder, std::span<const int32_t> ids,
                        bool skip_special);

}  // namespace tutti::tokenizer
