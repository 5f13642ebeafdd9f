#include "text/tokenizer.h"

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "text/bpe_merges.h"
#include "text/pre_tokenizer.h"
#include "text/special_tokens.h"

namespace millrace::text {
namespace {

// The printable-byte alphabet of GPT-2: bytes that print keep their code point, the other 68 follow
// from U+0100 in order of the byte. byte_of[code point] is the byte, or -1.
struct ByteAlphabet {
  int byte_of[512];
  ByteAlphabet() {
    for (int& byte : byte_of) byte = -1;
    int following = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      byte_of[prints ? byte : following++] = byte;
    }
  }
};

// The bytes that a token of the vocabulary file stands for; a token outside the alphabet (some
// files have such, never produced by merges) is its own text.
std::string FromAlphabet(const ByteAlphabet& alphabet, std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const unsigned char lead = static_cast<unsigned char>(token[i]);
    unsigned code_point = lead;
    size_t length = 1;
    if (lead >= 0xc2 && lead <= 0xdf && i + 1 < token.size()) {
      code_point = (lead & 0x1fu) << 6 | (static_cast<unsigned char>(token[i + 1]) & 0x3fu);
      length = 2;
    } else if (lead >= 0x80) {
      return std::string(token);
    }
    if (code_point >= 512 || alphabet.byte_of[code_point] < 0) return std::string(token);
    bytes.push_back(static_cast<char>(alphabet.byte_of[code_point]));
    i += length;
  }
  return bytes;
}

absl::Status Invalid(const std::string& what) {
  return absl::InvalidArgumentError("tokenizer: " + what);
}

class BpeTokenizer final : public Tokenizer {
 public:
  absl::Status Load(const TokenizerSpec& spec);

  std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string_view TokenBytes(TokenId id) const override {
    return id >= 0 && id < vocab_size() ? std::string_view(tokens_[id].bytes) : std::string_view();
  }
  bool IsSpecial(TokenId id) const override {
    return id >= 0 && id < vocab_size() && tokens_[id].special;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  TokenId bos() const override { return bos_; }
  TokenId eos() const override { return eos_; }
  TokenId FindToken(std::string_view text) const override {
    auto it = by_bytes_.find(text);
    return it == by_bytes_.end() ? -1 : it->second;
  }

 private:
  struct Entry {
    std::string bytes;
    bool special = false;
    bool whole = false;  // merging its bytes gives this token and nothing else
  };
  struct Scratch {
    std::vector<std::string_view> pieces;
    MergeScratch merge;
  };
  absl::Status LoadTokens(const TokenizerSpec& spec);
  absl::Status LoadMerges(const TokenizerSpec& spec);
  void MarkWholeTokens();
  void EncodePlain(std::string_view text, Scratch& scratch, std::vector<TokenId>& out) const;

  std::vector<Entry> tokens_;
  absl::flat_hash_map<std::string_view, TokenId> by_bytes_;  // views into tokens_
  SpecialTokens specials_;
  BpeMerges merges_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  TokenId bos_ = -1;
  TokenId eos_ = -1;
  bool add_bos_ = false;
};

absl::Status BpeTokenizer::Load(const TokenizerSpec& spec) {
  const size_t n = spec.tokens.size();
  if (n == 0) return Invalid("the vocabulary is empty");
  if (n > size_t{1} << 24) return Invalid("more than 2^24 tokens");
  if (spec.kinds.size() != n) {
    return Invalid(std::to_string(n) + " tokens but " + std::to_string(spec.kinds.size()) +
                   " token kinds");
  }
  const std::pair<const char*, TokenId> named[] = {
      {"bos", spec.bos}, {"eos", spec.eos}, {"unknown", spec.unknown}};
  for (const auto& entry : named) {
    if (entry.second < -1 || entry.second >= static_cast<int64_t>(n)) {
      return Invalid(std::string(entry.first) + " token id " + std::to_string(entry.second) +
                     " is outside the vocabulary of " + std::to_string(n));
    }
  }
  if (spec.add_bos && spec.bos < 0) return Invalid("add_bos without a bos token");
  ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::Create(spec.pre_tokenizer));
  RETURN_IF_ERROR(LoadTokens(spec));
  RETURN_IF_ERROR(LoadMerges(spec));
  MarkWholeTokens();
  bos_ = spec.bos;
  eos_ = spec.eos;
  add_bos_ = spec.add_bos;
  return absl::OkStatus();
}

absl::Status BpeTokenizer::LoadTokens(const TokenizerSpec& spec) {
  const ByteAlphabet alphabet;
  tokens_.resize(spec.tokens.size());
  by_bytes_.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const TokenKind kind = spec.kinds[i];
    const bool added = kind == TokenKind::kControl || kind == TokenKind::kUnknown ||
                       kind == TokenKind::kUserDefined;
    const std::string& text = spec.tokens[i];
    Entry& entry = tokens_[i];
    entry.bytes = added || kind == TokenKind::kUnused ? text : FromAlphabet(alphabet, text);
    entry.special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (!added) continue;
    if (text.size() > SpecialTokens::kBytesMax) {
      return Invalid("special token " + std::to_string(i) + " has " + std::to_string(text.size()) +
                     " bytes, more than " + std::to_string(SpecialTokens::kBytesMax));
    }
    if (text.empty()) return Invalid("special token " + std::to_string(i) + " is empty");
    specials_.Add(text, static_cast<TokenId>(i), kind == TokenKind::kUserDefined);
    // Special spellings take precedence over a normal token of the same bytes.
    by_bytes_.try_emplace(entry.bytes, static_cast<TokenId>(i));
  }
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kNormal || tokens_[i].bytes.empty()) continue;
    const TokenId id = static_cast<TokenId>(i);
    auto added = by_bytes_.try_emplace(tokens_[i].bytes, id);
    if (!added.second && spec.kinds[added.first->second] == TokenKind::kNormal) {
      return Invalid("tokens " + std::to_string(added.first->second) + " and " + std::to_string(i) +
                     " are equal");
    }
    if (tokens_[i].bytes.size() == 1) {
      merges_.SetByte(static_cast<uint8_t>(tokens_[i].bytes[0]), id);
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::LoadMerges(const TokenizerSpec& spec) {
  // By the file's own spelling, so that a control token is never a part of a merge.
  absl::flat_hash_map<std::string_view, TokenId> by_text;
  by_text.reserve(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kNormal) continue;
    by_text.try_emplace(spec.tokens[i], static_cast<TokenId>(i));
  }
  std::string joined;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view merge = spec.merges[i];
    // The separator is not the first byte: a part is never empty.
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 >= merge.size()) {
      return Invalid("merge " + std::to_string(i) + " is not two tokens");
    }
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    joined.assign(left).append(right);
    auto left_it = by_text.find(left);
    auto right_it = by_text.find(right);
    auto joined_it = by_text.find(joined);
    if (left_it == by_text.end() || right_it == by_text.end() || joined_it == by_text.end()) {
      const char* which = left_it == by_text.end()    ? "left part"
                          : right_it == by_text.end() ? "right part"
                                                      : "result";
      return Invalid("the " + std::string(which) + " of merge " + std::to_string(i) +
                     " is not in the vocabulary");
    }
    merges_.Add(left_it->second, right_it->second, joined_it->second);
  }
  return absl::OkStatus();
}

// Most pieces of ordinary text are one token. A look-up is then all they need, and it is exact
// because merging is a function of the piece alone: we try it here once for every token.
void BpeTokenizer::MarkWholeTokens() {
  MergeScratch scratch;
  std::vector<TokenId> ids;
  for (auto it = by_bytes_.begin(); it != by_bytes_.end(); ++it) {
    Entry& entry = tokens_[it->second];
    ids.clear();
    merges_.Apply(entry.bytes, scratch, ids);
    entry.whole = ids.size() == 1 && ids[0] == it->second;
  }
}

void BpeTokenizer::EncodePlain(std::string_view text, Scratch& scratch,
                               std::vector<TokenId>& out) const {
  if (text.empty()) return;
  scratch.pieces.clear();
  pre_tokenizer_->Split(text, scratch.pieces);
  for (std::string_view piece : scratch.pieces) {
    auto it = by_bytes_.find(piece);
    if (it != by_bytes_.end() && tokens_[it->second].whole) {
      out.push_back(it->second);
    } else {
      merges_.Apply(piece, scratch.merge, out);
    }
  }
}

std::vector<TokenId> BpeTokenizer::Encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::vector<TokenId> out;
  Scratch scratch;
  if (options.add_special && add_bos_) out.push_back(bos_);
  size_t at = 0;
  size_t range_at = 0;
  while (at < text.size()) {
    const SpecialTokens::Match match = specials_.Find(text, at, options, range_at);
    if (match.id < 0) break;
    EncodePlain(text.substr(at, match.begin - at), scratch, out);
    out.push_back(match.id);
    at = match.end;
  }
  EncodePlain(text.substr(at), scratch, out);
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  if (spec.model != "bpe") {
    return Invalid("unknown model '" + spec.model.substr(0, 64) + "'; known is bpe");
  }
  auto tokenizer = std::make_unique<BpeTokenizer>();
  RETURN_IF_ERROR(tokenizer->Load(spec));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

std::string Decode(const Tokenizer& tokenizer, std::span<const TokenId> ids, bool skip_special) {
  std::string bytes;
  for (TokenId id : ids) {
    if (skip_special && tokenizer.IsSpecial(id)) continue;
    bytes += tokenizer.TokenBytes(id);
  }
  return ReplaceInvalidUtf8(bytes);
}

}  // namespace millrace::text
