#pragma once
// The tokens of a BPE vocabulary and the way from a piece of text to their ids.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "text/bpe_merges.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// Thread: immutable once loaded.
class BpeVocabulary {
 public:
  // InvalidArgument names what is wrong in the spec.
  absl::Status Load(const TokenizerSpec& spec);

  // Appends the ids of one piece of the pre-tokenizer.
  void Encode(std::string_view piece, MergeScratch& scratch, std::vector<TokenId>& out) const;

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  // REQUIRES: 0 <= id < size().
  std::string_view Bytes(TokenId id) const { return tokens_[static_cast<size_t>(id)].bytes; }
  bool IsSpecial(TokenId id) const { return tokens_[static_cast<size_t>(id)].special; }
  // The token that stands for exactly these bytes (special tokens before others), or -1.
  TokenId Find(std::string_view bytes) const;

 private:
  struct Entry {
    std::string bytes;  // what the token stands for
    bool special = false;
    bool whole = false;  // merging its spelling gives this token and nothing else
  };
  struct TextRule {
    std::string_view left;
    std::string_view right;
    size_t number;
  };
  void DecodeTokens(const TokenizerSpec& spec);
  absl::Status IndexTokens(const TokenizerSpec& spec);
  absl::Status LoadMerges(const TokenizerSpec& spec);
  absl::Status LoadScores(const TokenizerSpec& spec);
  absl::Status AddRule(const TokenizerSpec& spec,
                       const absl::flat_hash_map<std::string_view, TokenId>& by_text,
                       const TextRule& rule);
  TokenId SymbolOf(std::string_view spelling);
  void NoteNeighbours(std::string_view spelling);
  void MarkWholeTokens(const TokenizerSpec& spec);

  bool MayMergeAcross(uint32_t left, uint32_t right) const;
  // The token that `piece` is without any merging, or -1.
  TokenId WholeToken(std::string_view piece) const;
  void EncodePart(std::string_view part, MergeScratch& scratch, std::vector<TokenId>& out) const;
  void Merge(std::string_view part, MergeScratch& scratch, std::vector<TokenId>& out) const;
  void SpellPseudo(size_t begin, MergeScratch& scratch, std::vector<TokenId>& out) const;
  bool PushBytes(std::string_view character, std::vector<TokenId>& ids) const;
  TokenId CharacterId(uint32_t code_point) const;
  void PushUnknown(MergeScratch& scratch, const std::vector<TokenId>& out) const;

  bool by_bytes_ = true;  // symbols are bytes, else characters
  bool may_cut_ = false;  // see neighbours_
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
  TokenId unknown_ = -1;
  size_t piece_bytes_max_ = 0;
  std::vector<Entry> tokens_;
  // Of tokens that text can become: by spelling for characters, by bytes for bytes. Views into
  // tokens_ and spellings_.
  absl::flat_hash_map<std::string_view, TokenId> pieces_;
  absl::flat_hash_map<std::string_view, TokenId> by_value_;  // Find
  std::vector<std::string> spellings_;                       // characters only
  TokenId byte_ids_[256];
  std::vector<TokenId> low_characters_;                     // below U+10000
  absl::flat_hash_map<uint32_t, TokenId> high_characters_;  // and above
  // Characters that have no token but occur in tokens, as ids from size() on: they can merge.
  std::vector<std::string> pseudo_;
  // A bit for each pair of characters that are neighbours in some token that merges make. Where two
  // are not, no merge goes across, so text may be cut there. Hashed: a wrong bit costs a cut only.
  std::vector<uint64_t> neighbours_;
  BpeMerges merges_;
};

}  // namespace millrace::text
