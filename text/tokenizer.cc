#include "text/tokenizer.h"

#include <algorithm>
#include <deque>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "text/bpe_vocabulary.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/special_tokens.h"
#include "text/split_patterns.h"

namespace millrace::text {
namespace {

absl::Status Invalid(const std::string& what) {
  return absl::InvalidArgumentError("tokenizer: " + what);
}

// What the decoder does to the beginning of a whole text.
enum class FirstSpaces { kKept, kOneDropped, kAllDropped };

class BpeTokenizer final : public Tokenizer {
 public:
  absl::Status Load(TokenizerSpec spec);

  std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string_view TokenBytes(TokenId id) const override {
    return id >= 0 && id < vocab_size() ? vocabulary_.Bytes(id) : std::string_view();
  }
  std::string_view FirstTokenBytes(TokenId id) const override;
  bool IsSpecial(TokenId id) const override {
    return id >= 0 && id < vocab_size() && vocabulary_.IsSpecial(id);
  }
  int32_t vocab_size() const override { return vocabulary_.size(); }
  TokenId bos() const override { return bos_; }
  TokenId eos() const override { return eos_; }
  TokenId FindToken(std::string_view text) const override { return vocabulary_.Find(text); }

 private:
  struct Scratch {
    std::string normalized;
    std::deque<std::string> texts;
    std::vector<std::string_view> pieces;
    std::vector<TextRange> ranges;
    MergeScratch merge;
  };
  absl::Status AddAddedTokens(const TokenizerSpec& spec);
  // Between added tokens that are searched for in the text as it is.
  void EncodeSegment(std::string_view text, TextRange segment, const EncodeOptions& options,
                     Scratch& scratch, std::vector<TokenId>& out) const;
  EncodeOptions ForNormalized(std::string_view segment, size_t offset, const EncodeOptions& options,
                              Scratch& scratch) const;
  // Between any added tokens; normalized.
  void EncodePlain(std::string_view text, bool at_start, Scratch& scratch,
                   std::vector<TokenId>& out) const;

  BpeVocabulary vocabulary_;
  SpecialTokens added_;             // in the text as it is
  SpecialTokens normalized_added_;  // in the normalized text
  Normalizer normalizer_{{}};
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::vector<TokenId> prefix_;
  std::vector<TokenId> suffix_;
  TokenId bos_ = -1;
  TokenId eos_ = -1;
  FirstSpaces first_spaces_ = FirstSpaces::kKept;
};

absl::Status CheckSpec(const TokenizerSpec& spec) {
  const size_t n = spec.tokens.size();
  if (n == 0) return Invalid("the vocabulary is empty");
  if (n > size_t{1} << 24) return Invalid("more than 2^24 tokens");
  if (spec.kinds.size() != n) {
    return Invalid(std::to_string(n) + " tokens but " + std::to_string(spec.kinds.size()) +
                   " token kinds");
  }
  if (!spec.scores.empty() && spec.scores.size() != n) {
    return Invalid(std::to_string(n) + " tokens but " + std::to_string(spec.scores.size()) +
                   " scores");
  }
  const auto check = [n](const char* name, TokenId id) {
    if (id >= -1 && id < static_cast<int64_t>(n)) return absl::OkStatus();
    return Invalid(std::string(name) + " token id " + std::to_string(id) +
                   " is outside the vocabulary of " + std::to_string(n));
  };
  RETURN_IF_ERROR(check("bos", spec.bos));
  RETURN_IF_ERROR(check("eos", spec.eos));
  RETURN_IF_ERROR(check("unknown", spec.unknown));
  for (TokenId id : spec.prefix) RETURN_IF_ERROR(check("first", id));
  for (TokenId id : spec.suffix) RETURN_IF_ERROR(check("last", id));
  for (const AddedToken& token : spec.added) RETURN_IF_ERROR(check("added", token.id));
  if (spec.add_bos && spec.bos < 0) return Invalid("add_bos without a bos token");
  if (spec.add_eos && spec.eos < 0) return Invalid("add_eos without an eos token");
  return absl::OkStatus();
}

absl::Status BpeTokenizer::Load(TokenizerSpec spec) {
  RETURN_IF_ERROR(CheckSpec(spec));
  if (!spec.pre_tokenizer.empty()) {
    std::string known;
    if (!SetPreTokenizer(spec.pre_tokenizer, spec, known)) {
      return Invalid("unknown pre-tokenizer '" + spec.pre_tokenizer.substr(0, 64) +
                     "'; known are " + known);
    }
  }
  RETURN_IF_ERROR(AddAddedTokens(spec));
  RETURN_IF_ERROR(vocabulary_.Load(spec));
  ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::Create(std::move(spec.splits)));
  normalizer_ = Normalizer(std::move(spec.normalizer));
  prefix_ = std::move(spec.prefix);
  suffix_ = std::move(spec.suffix);
  if (spec.add_bos) prefix_.insert(prefix_.begin(), spec.bos);
  if (spec.add_eos) suffix_.push_back(spec.eos);
  bos_ = spec.bos;
  eos_ = spec.eos;
  for (const DecoderStep& step : spec.decoder) {
    if (step.kind == DecoderStep::Kind::kStripFirst) first_spaces_ = FirstSpaces::kOneDropped;
    if (step.kind == DecoderStep::Kind::kMetaspace && step.strip_first) {
      first_spaces_ = FirstSpaces::kAllDropped;
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddAddedTokens(const TokenizerSpec& spec) {
  std::vector<AddedToken> rules(spec.tokens.size());
  for (const AddedToken& token : spec.added) {
    if (token.id >= 0) rules[static_cast<size_t>(token.id)] = token;
  }
  const Normalizer normalizer(spec.normalizer);
  std::string storage;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenKind kind = spec.kinds[i];
    if (kind != TokenKind::kControl && kind != TokenKind::kUnknown &&
        kind != TokenKind::kUserDefined) {
      continue;
    }
    std::string_view text = spec.tokens[i];
    if (text.size() > SpecialTokens::kBytesMax) {
      return Invalid("special token " + std::to_string(i) + " has " + std::to_string(text.size()) +
                     " bytes, more than " + std::to_string(SpecialTokens::kBytesMax));
    }
    if (text.empty()) return Invalid("special token " + std::to_string(i) + " is empty");
    rules[i].id = static_cast<TokenId>(i);
    if (rules[i].normalized) text = normalizer.Apply(text, storage);
    if (text.empty() || text.size() > SpecialTokens::kBytesMax) {
      return Invalid("special token " + std::to_string(i) + " is empty or too long, normalized");
    }
    SpecialTokens& tokens = rules[i].normalized ? normalized_added_ : added_;
    tokens.Add(text, rules[i], kind == TokenKind::kUserDefined);
  }
  return absl::OkStatus();
}

std::string_view BpeTokenizer::FirstTokenBytes(TokenId id) const {
  std::string_view bytes = TokenBytes(id);
  if (first_spaces_ == FirstSpaces::kKept) return bytes;
  while (!bytes.empty() && bytes.front() == ' ') {
    bytes.remove_prefix(1);
    if (first_spaces_ == FirstSpaces::kOneDropped) break;
  }
  return bytes;
}

void BpeTokenizer::EncodePlain(std::string_view text, bool at_start, Scratch& scratch,
                               std::vector<TokenId>& out) const {
  if (text.empty()) return;
  scratch.pieces.clear();
  scratch.texts.clear();
  pre_tokenizer_->Split(text, at_start, scratch.texts, scratch.pieces);
  for (std::string_view piece : scratch.pieces) vocabulary_.Encode(piece, scratch.merge, out);
}

// Where the plain ranges of a segment lie after normalizing. Parts inside and outside of ranges are
// normalized alone; where that is not what the whole gives (a mark that composes across a border),
// nothing in the segment may be a control token: refusing too much is safe.
EncodeOptions BpeTokenizer::ForNormalized(std::string_view segment, size_t offset,
                                          const EncodeOptions& options, Scratch& scratch) const {
  EncodeOptions out = options;
  out.plain_ranges = {};
  scratch.ranges.clear();
  std::string joined;
  std::string storage;
  size_t at = 0;
  const auto append = [&](size_t end) {
    joined += normalizer_.Apply(segment.substr(at, end - at), storage, joined.empty());
    at = end;
  };
  const std::span<const TextRange> ranges = options.plain_ranges;
  auto range = std::partition_point(ranges.begin(), ranges.end(),
                                    [&](const TextRange& r) { return r.end <= offset; });
  for (; range != ranges.end() && range->begin < offset + segment.size(); ++range) {
    const size_t begin = std::max(range->begin, offset) - offset;
    const size_t end = std::min(range->end, offset + segment.size()) - offset;
    if (begin >= end || begin < at) continue;
    append(begin);
    const size_t from = joined.size();
    append(end);
    scratch.ranges.push_back({from, joined.size()});
  }
  if (scratch.ranges.empty()) return out;
  append(segment.size());
  if (joined != scratch.normalized) {
    out.parse_special = false;
  } else {
    out.plain_ranges = scratch.ranges;
  }
  return out;
}

void BpeTokenizer::EncodeSegment(std::string_view text, TextRange segment,
                                 const EncodeOptions& options, Scratch& scratch,
                                 std::vector<TokenId>& out) const {
  if (segment.begin >= segment.end) return;
  const std::string_view part = text.substr(segment.begin, segment.end - segment.begin);
  const std::string_view normal = normalizer_.Apply(part, scratch.normalized);
  const bool at_start = segment.begin == 0;
  if (normalized_added_.empty()) return EncodePlain(normal, at_start, scratch, out);
  if (normal.data() == part.data()) scratch.normalized = std::string(part);
  const std::string whole = scratch.normalized;
  const EncodeOptions inner = ForNormalized(part, segment.begin, options, scratch);
  SpecialTokens::Cursor cursor;
  size_t at = 0;
  for (;;) {
    const SpecialTokens::Match match = normalized_added_.Find(whole, inner, cursor);
    if (match.id < 0) break;
    EncodePlain(std::string_view(whole).substr(at, match.begin - at), at_start && at == 0, scratch,
                out);
    out.push_back(match.id);
    at = match.end;
  }
  EncodePlain(std::string_view(whole).substr(at), at_start && at == 0, scratch, out);
}

std::vector<TokenId> BpeTokenizer::Encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::vector<TokenId> out;
  Scratch scratch;
  if (options.add_special) out = prefix_;
  size_t at = 0;
  SpecialTokens::Cursor cursor;
  for (;;) {
    const SpecialTokens::Match match = added_.Find(text, options, cursor);
    if (match.id < 0) break;
    EncodeSegment(text, {at, match.begin}, options, scratch, out);
    out.push_back(match.id);
    at = match.end;
  }
  EncodeSegment(text, {at, text.size()}, options, scratch, out);
  if (options.add_special) out.insert(out.end(), suffix_.begin(), suffix_.end());
  return out;
}

}  // namespace

void SetSentencePieceSteps(bool add_space_prefix, TokenizerSpec& spec) {
  constexpr char kSpaceSymbol[] = "\u2581";
  spec.normalizer.clear();
  spec.splits.clear();
  spec.decoder.clear();
  if (add_space_prefix) {
    NormalizerStep& prepend = spec.normalizer.emplace_back();
    prepend.kind = NormalizerStep::Kind::kPrepend;
    prepend.to = kSpaceSymbol;
  }
  NormalizerStep& replace = spec.normalizer.emplace_back();
  replace.kind = NormalizerStep::Kind::kReplace;
  replace.from = " ";
  replace.to = kSpaceSymbol;
  DecoderStep& decode = spec.decoder.emplace_back();
  decode.kind = DecoderStep::Kind::kReplace;
  decode.from = kSpaceSymbol;
  decode.to = " ";
  spec.decoder.emplace_back().kind = DecoderStep::Kind::kByteFallback;
  if (add_space_prefix) spec.decoder.emplace_back().kind = DecoderStep::Kind::kStripFirst;
  spec.byte_fallback = true;
  spec.emit_unknown = true;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  if (spec.model != "bpe" && spec.model != "spm") {
    return Invalid("unknown model '" + spec.model.substr(0, 64) + "'; known are bpe, spm");
  }
  auto tokenizer = std::make_unique<BpeTokenizer>();
  RETURN_IF_ERROR(tokenizer->Load(std::move(spec)));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

std::string Decode(const Tokenizer& tokenizer, std::span<const TokenId> ids, bool skip_special) {
  std::string bytes;
  bool first = true;
  for (TokenId id : ids) {
    if (skip_special && tokenizer.IsSpecial(id)) continue;
    bytes += first ? tokenizer.FirstTokenBytes(id) : tokenizer.TokenBytes(id);
    first = first && tokenizer.TokenBytes(id).empty();
  }
  return ReplaceInvalidUtf8(bytes);
}

}  // namespace millrace::text
