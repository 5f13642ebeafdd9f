#include "text/bpe_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/status_macros.h"
#include "base/utf8.h"
#include "text/token_bytes.h"
#include "text/unicode.h"

namespace millrace::text {
namespace {

// Every split of a token into two is looked up when rules come from scores. The longest published
// token that text becomes has 93 bytes (Gemma: 31 spaces).
constexpr size_t kScoredBytesMax = 512;
constexpr uint32_t kLowCharacters = 0x10000;
constexpr int kNeighbourBitsLog2 = 21;
constexpr size_t kNeighbourBits = size_t{1} << kNeighbourBitsLog2;

absl::Status Invalid(const std::string& what) {
  return absl::InvalidArgumentError("tokenizer: " + what);
}

bool IsAdded(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown ||
         kind == TokenKind::kUserDefined;
}

// What text may become by merging. Never a control token: text of a client is only text.
bool IsFromText(TokenKind kind) {
  return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined ||
         kind == TokenKind::kUnused;
}

size_t NeighbourBit(uint32_t left, uint32_t right) {
  return ((uint64_t{left} * 0x9e3779b97f4a7c15u + right) * 0xd6e8feb86659fd93u) >>
         (64 - kNeighbourBitsLog2);
}

}  // namespace

absl::Status BpeVocabulary::Load(const TokenizerSpec& spec) {
  by_bytes_ = spec.model == "bpe";
  byte_fallback_ = spec.byte_fallback;
  ignore_merges_ = spec.ignore_merges;
  fuse_unknown_ = spec.fuse_unknown;
  unknown_ = spec.emit_unknown ? spec.unknown : -1;
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  if (!by_bytes_) {
    low_characters_.assign(kLowCharacters, -1);
    neighbours_.assign(kNeighbourBits / 64, 0);
    spellings_ = spec.tokens;
  }
  DecodeTokens(spec);
  RETURN_IF_ERROR(IndexTokens(spec));
  if (spec.scores.empty()) {
    RETURN_IF_ERROR(LoadMerges(spec));
  } else {
    RETURN_IF_ERROR(LoadScores(spec));
  }
  // A character that is left out makes its neighbours meet: then no cut is safe.
  const bool all_bytes = byte_fallback_ && std::find(std::begin(byte_ids_), std::end(byte_ids_),
                                                     -1) == std::end(byte_ids_);
  may_cut_ = !by_bytes_ && (unknown_ >= 0 || all_bytes);
  MarkWholeTokens(spec);
  return absl::OkStatus();
}

void BpeVocabulary::DecodeTokens(const TokenizerSpec& spec) {
  std::vector<std::string> bytes = TokenBytesOf(spec);
  tokens_.resize(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    tokens_[i].bytes = std::move(bytes[i]);
    tokens_[i].special =
        spec.kinds[i] == TokenKind::kControl || spec.kinds[i] == TokenKind::kUnknown;
  }
  by_value_.reserve(tokens_.size());
  // Of tokens with equal bytes: special ones first, then what text becomes, then single bytes.
  const auto add = [&](auto&& wanted) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (wanted(spec.kinds[i]) && !tokens_[i].bytes.empty()) {
        by_value_.try_emplace(tokens_[i].bytes, static_cast<TokenId>(i));
      }
    }
  };
  add(IsAdded);
  add([](TokenKind kind) { return kind == TokenKind::kNormal; });
  add([](TokenKind kind) { return kind == TokenKind::kByte; });
}

absl::Status BpeVocabulary::IndexTokens(const TokenizerSpec& spec) {
  pieces_.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const TokenKind kind = spec.kinds[i];
    const TokenId id = static_cast<TokenId>(i);
    const std::string& spelling = by_bytes_ ? tokens_[i].bytes : spellings_[i];
    const int byte = kind == TokenKind::kByte ? ByteOfToken(spec.tokens[i]) : -1;
    if (kind == TokenKind::kByte && !by_bytes_) {
      if (byte < 0) return Invalid("byte token " + std::to_string(i) + " is not spelled <0xHH>");
      byte_ids_[byte] = id;
    }
    if (kind != TokenKind::kNormal || spelling.empty()) continue;
    auto added = pieces_.try_emplace(spelling, id);
    if (!added.second) {
      return Invalid("tokens " + std::to_string(added.first->second) + " and " + std::to_string(i) +
                     " are equal");
    }
    if (by_bytes_ && spelling.size() == 1) byte_ids_[static_cast<uint8_t>(spelling[0])] = id;
  }
  if (by_bytes_) return absl::OkStatus();
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kUserDefined && spec.kinds[i] != TokenKind::kUnused) continue;
    if (!spellings_[i].empty()) pieces_.try_emplace(spellings_[i], static_cast<TokenId>(i));
  }
  for (auto it = pieces_.begin(); it != pieces_.end(); ++it) {
    const Character c = CharacterAt(it->first, 0);
    if (!c.valid || c.length != it->first.size()) continue;
    if (c.code_point < kLowCharacters) {
      low_characters_[c.code_point] = it->second;
    } else {
      high_characters_[c.code_point] = it->second;
    }
  }
  return absl::OkStatus();
}

absl::Status BpeVocabulary::LoadMerges(const TokenizerSpec& spec) {
  // By the file's own spelling. Added tokens come last: a token of text goes before.
  absl::flat_hash_map<std::string_view, TokenId> by_text;
  by_text.reserve(spec.tokens.size());
  for (bool from_text : {true, false}) {
    for (size_t i = 0; i < spec.tokens.size(); ++i) {
      if (IsFromText(spec.kinds[i]) != from_text) continue;
      by_text.try_emplace(spec.tokens[i], static_cast<TokenId>(i));
    }
  }
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view merge = spec.merges[i];
    // The separator is not the first byte: a part is never empty.
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 >= merge.size()) {
      return Invalid("merge " + std::to_string(i) + " is not two tokens");
    }
    RETURN_IF_ERROR(AddRule(spec, by_text, {merge.substr(0, space), merge.substr(space + 1), i}));
  }
  for (size_t i = 0; i < spec.merge_ids.size(); ++i) {
    const TokenId left = spec.merge_ids[i].first;
    const TokenId right = spec.merge_ids[i].second;
    if (left < 0 || left >= size() || right < 0 || right >= size()) {
      return Invalid("merge " + std::to_string(i) + " is outside the vocabulary");
    }
    const std::string& left_text = spec.tokens[static_cast<size_t>(left)];
    const std::string& right_text = spec.tokens[static_cast<size_t>(right)];
    if (left_text.empty() || right_text.empty()) {
      return Invalid("merge " + std::to_string(i) + " has an empty part");
    }
    RETURN_IF_ERROR(AddRule(spec, by_text, {left_text, right_text, i}));
  }
  return absl::OkStatus();
}

absl::Status BpeVocabulary::AddRule(const TokenizerSpec& spec,
                                    const absl::flat_hash_map<std::string_view, TokenId>& by_text,
                                    const TextRule& rule) {
  const std::string joined = std::string(rule.left).append(rule.right);
  const std::pair<const char*, std::string_view> names[] = {
      {"left part", rule.left}, {"right part", rule.right}, {"result", joined}};
  TokenId ids[3];
  bool usable = true;
  for (int k = 0; k < 3; ++k) {
    const auto it = by_text.find(names[k].second);
    if (it == by_text.end()) {
      return Invalid("the " + std::string(names[k].first) + " of merge " +
                     std::to_string(rule.number) + " is not in the vocabulary");
    }
    ids[k] = it->second;
    usable = usable && IsFromText(spec.kinds[static_cast<size_t>(ids[k])]);
  }
  // A rule with a control or byte token is left out: no letters of a client may become one.
  if (!usable) return absl::OkStatus();
  merges_.Add(ids[0], ids[1], ids[2], static_cast<uint32_t>(rule.number));
  if (!by_bytes_) NoteNeighbours(joined);
  return absl::OkStatus();
}

// SentencePiece has no rules: any two neighbours whose join is a token may merge, the best score
// first. That is a rule for each split of each token.
absl::Status BpeVocabulary::LoadScores(const TokenizerSpec& spec) {
  std::vector<TokenId> order;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (!std::isfinite(spec.scores[i])) {
      return Invalid("the score of token " + std::to_string(i) + " is not finite");
    }
    if (!IsFromText(spec.kinds[i])) continue;
    if (spec.tokens[i].size() > kScoredBytesMax) {
      return Invalid("token " + std::to_string(i) + " has " +
                     std::to_string(spec.tokens[i].size()) + " bytes, more than " +
                     std::to_string(kScoredBytesMax));
    }
    order.push_back(static_cast<TokenId>(i));
  }
  const auto score = [&](TokenId id) { return spec.scores[static_cast<size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return score(a) > score(b); });
  uint32_t rank = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    // Equal scores: the leftmost place decides.
    if (k > 0 && score(order[k]) < score(order[k - 1])) ++rank;
    const std::string_view text = spellings_[static_cast<size_t>(order[k])];
    const size_t before = merges_.size();
    for (size_t at = CharacterAt(text, 0).length; at < text.size();
         at += CharacterAt(text, at).length) {
      const TokenId left = SymbolOf(text.substr(0, at));
      const TokenId right = SymbolOf(text.substr(at));
      if (left >= 0 && right >= 0) merges_.Add(left, right, order[k], rank);
    }
    if (merges_.size() > before) NoteNeighbours(text);
  }
  return absl::OkStatus();
}

// The id of a token that text becomes, or of a lone character: one without a token merges too.
TokenId BpeVocabulary::SymbolOf(std::string_view spelling) {
  const auto it = pieces_.find(spelling);
  if (it != pieces_.end()) return it->second;
  const Character c = CharacterAt(spelling, 0);
  if (!c.valid || c.length != spelling.size()) return -1;
  TokenId& id = c.code_point < kLowCharacters
                    ? low_characters_[c.code_point]
                    : high_characters_.try_emplace(c.code_point, -1).first->second;
  if (id < 0) {
    id = size() + static_cast<TokenId>(pseudo_.size());
    pseudo_.emplace_back(spelling);
  }
  return id;
}

void BpeVocabulary::NoteNeighbours(std::string_view spelling) {
  Character left = CharacterAt(spelling, 0);
  for (size_t at = left.length; at < spelling.size();) {
    const Character right = CharacterAt(spelling, at);
    const size_t bit = NeighbourBit(left.code_point, right.code_point);
    neighbours_[bit / 64] |= uint64_t{1} << (bit % 64);
    at += right.length;
    left = right;
  }
}

// Most pieces of ordinary text are one token. A look-up is then all they need, and it is exact
// because merging is a function of the piece alone: we try it here once for every token.
void BpeVocabulary::MarkWholeTokens(const TokenizerSpec& spec) {
  MergeScratch scratch;
  std::vector<TokenId> ids;
  for (auto it = pieces_.begin(); it != pieces_.end(); ++it) {
    Entry& entry = tokens_[static_cast<size_t>(it->second)];
    piece_bytes_max_ = std::max(piece_bytes_max_, it->first.size());
    if (ignore_merges_) {
      entry.whole = spec.kinds[static_cast<size_t>(it->second)] == TokenKind::kNormal;
      continue;
    }
    ids.clear();
    Merge(it->first, scratch, ids);
    entry.whole = ids.size() == 1 && ids[0] == it->second;
  }
}

TokenId BpeVocabulary::Find(std::string_view bytes) const {
  const auto it = by_value_.find(bytes);
  return it == by_value_.end() ? -1 : it->second;
}

bool BpeVocabulary::MayMergeAcross(uint32_t left, uint32_t right) const {
  const size_t bit = NeighbourBit(left, right);
  return (neighbours_[bit / 64] >> (bit % 64) & 1) != 0;
}

void BpeVocabulary::Encode(std::string_view piece, MergeScratch& scratch,
                           std::vector<TokenId>& out) const {
  scratch.piece_begin = out.size();
  if (!may_cut_ || (ignore_merges_ && WholeToken(piece) >= 0)) {
    EncodePart(piece, scratch, out);
    return;
  }
  size_t begin = 0;
  Character left = CharacterAt(piece, 0);
  for (size_t at = left.length; at < piece.size();) {
    const Character right = CharacterAt(piece, at);
    if (!left.valid || !right.valid || !MayMergeAcross(left.code_point, right.code_point)) {
      EncodePart(piece.substr(begin, at - begin), scratch, out);
      begin = at;
    }
    at += right.length;
    left = right;
  }
  if (begin < piece.size()) EncodePart(piece.substr(begin), scratch, out);
}

TokenId BpeVocabulary::WholeToken(std::string_view piece) const {
  if (piece.size() > piece_bytes_max_) return -1;
  const auto it = pieces_.find(piece);
  return it != pieces_.end() && tokens_[static_cast<size_t>(it->second)].whole ? it->second : -1;
}

void BpeVocabulary::EncodePart(std::string_view part, MergeScratch& scratch,
                               std::vector<TokenId>& out) const {
  const TokenId whole = WholeToken(part);
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    Merge(part, scratch, out);
  }
}

void BpeVocabulary::Merge(std::string_view part, MergeScratch& scratch,
                          std::vector<TokenId>& out) const {
  scratch.ids.clear();
  if (by_bytes_) {
    for (unsigned char byte : part) {
      if (byte_ids_[byte] >= 0) {
        scratch.ids.push_back(byte_ids_[byte]);
      } else {
        PushUnknown(scratch, out);
      }
    }
    merges_.Apply(scratch, out);
    return;
  }
  for (size_t at = 0; at < part.size();) {
    const Character c = CharacterAt(part, at);
    const TokenId id = c.valid ? CharacterId(c.code_point) : -1;
    if (id >= 0) {
      scratch.ids.push_back(id);
    } else if (!PushBytes(part.substr(at, c.length), scratch.ids)) {
      PushUnknown(scratch, out);
    }
    at += c.length;
  }
  const size_t begin = out.size();
  merges_.Apply(scratch, out);
  if (!pseudo_.empty()) SpellPseudo(begin, scratch, out);
}

// Characters without a token that did not merge become bytes after all.
void BpeVocabulary::SpellPseudo(size_t begin, MergeScratch& scratch,
                                std::vector<TokenId>& out) const {
  if (std::none_of(out.begin() + static_cast<ptrdiff_t>(begin), out.end(),
                   [&](TokenId id) { return id >= size(); })) {
    return;
  }
  const std::vector<TokenId> merged(out.begin() + static_cast<ptrdiff_t>(begin), out.end());
  out.resize(begin);
  scratch.ids.clear();
  for (TokenId id : merged) {
    if (id < size()) {
      out.push_back(id);
    } else if (!PushBytes(pseudo_[static_cast<size_t>(id - size())], out)) {
      PushUnknown(scratch, out);
      out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
      scratch.ids.clear();
    }
  }
}

// All bytes of a character or none.
bool BpeVocabulary::PushBytes(std::string_view character, std::vector<TokenId>& ids) const {
  if (!byte_fallback_) return false;
  for (unsigned char byte : character) {
    if (byte_ids_[byte] < 0) return false;
  }
  for (unsigned char byte : character) ids.push_back(byte_ids_[byte]);
  return true;
}

TokenId BpeVocabulary::CharacterId(uint32_t code_point) const {
  if (code_point < kLowCharacters) return low_characters_[code_point];
  const auto it = high_characters_.find(code_point);
  return it == high_characters_.end() ? -1 : it->second;
}

void BpeVocabulary::PushUnknown(MergeScratch& scratch, const std::vector<TokenId>& out) const {
  if (unknown_ < 0) return;
  const bool follows = scratch.ids.empty()
                           ? out.size() > scratch.piece_begin && out.back() == unknown_
                           : scratch.ids.back() == unknown_;
  if (!fuse_unknown_ || !follows) scratch.ids.push_back(unknown_);
}

}  // namespace millrace::text
