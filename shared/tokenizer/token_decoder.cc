// Ids -> text for vocabularies whose tokens are plain bytes, and the streaming form of any decoder.
#include <algorithm>

#include "shared/base/secret.h"
#include "shared/tokenizer/tokenizer.h"
#include "shared/tokenizer/unicode.h"
#include "shared/tokenizer/vocabulary.h"

namespace tutti::tokenizer {
namespace {

class ByteDecoder final : public TokenDecoder {
 public:
  explicit ByteDecoder(const DecoderTable& table) : special_(table.special) {
    size_t bytes = 0;
    for (const std::string& s : table.bytes) bytes += s.size();
    bytes_.Reserve(table.bytes.size(), bytes);
    for (const std::string& s : table.bytes) bytes_.Add(s);
    special_.resize(table.bytes.size());
  }

  int vocab_size() const override { return static_cast<int>(bytes_.size()); }
  std::string_view Bytes(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? bytes_[id] : std::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override {
    return DecodeBytes(*this, ids, skip_special);
  }

 private:
  StringTable bytes_;  // [vocab]
  std::vector<bool> special_;
};

}  // namespace

std::string DecodeBytes(const TokenDecoder& decoder, std::span<const int32_t> ids,
                        bool skip_special) {
  std::string bytes, out;
  for (const int32_t id : ids) {
    if (!skip_special || !decoder.IsSpecial(id)) bytes.append(decoder.Bytes(id));
  }
  out.reserve(bytes.size());
  AppendLossyUtf8(bytes, &out);
  return out;
}

std::string VocabularyDigest(const TokenDecoder& decoder, int32_t bos_id, int32_t eos_id) {
  Sha256 hash;
  hash.Add("tutti vocabulary 1");
  hash.Add(static_cast<uint64_t>(decoder.vocab_size()));
  hash.Add(static_cast<uint64_t>(static_cast<int64_t>(bos_id)));
  hash.Add(static_cast<uint64_t>(static_cast<int64_t>(eos_id)));
  for (int32_t id = 0; id < decoder.vocab_size(); ++id) {
    const std::string_view bytes = decoder.Bytes(id);
    hash.Add(uint64_t{bytes.size()} << 1 | uint64_t{decoder.IsSpecial(id)});
    hash.Add(bytes);
  }
  return hash.Finish();
}

std::shared_ptr<const TokenDecoder> MakeByteDecoder(DecoderTable table) {
  return std::make_shared<ByteDecoder>(table);
}

std::string StreamDecoder::Push(int32_t id) {
  if (skip_special_ && decoder_->IsSpecial(id)) return {};
  pending_.append(decoder_->Bytes(id));
  // As tokenizers' DecodeStream: what ends inside of a character is held back whole, and so is what
  // ends in U+FFFD, which may be half of one.
  return EndsInWholeCharacter(pending_) ? Flush() : std::string();
}

std::string StreamDecoder::Flush() {
  std::string out;
  AppendLossyUtf8(pending_, &out);
  pending_.clear();
  return out;
}

}  // namespace tutti::tokenizer
