#pragma once
// What a tokenizer is made of, whichever file it came from: a GGUF file's arrays or the steps of a
// tokenizer.json. The way of a text:
//
//   text ─ added tokens cut out ─► normalizer ─► pre-tokenizer ─► merges inside each piece ─► ids
//   ids ─ each token through the decoder's steps, once, at load ─► bytes

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace millrace::text {

// kControl and kUnknown are special: hidden from decoded text, read in text only where allowed.
// kUserDefined are always read. kByte: "<0xE4>", a byte of a character that has no token.
enum class TokenKind : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// How an added token (control, unknown or user-defined) is found in a text.
struct AddedToken {
  TokenId id = -1;
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // ... after it
  bool single_word = false;  // only between characters that are no part of a word
  bool normalized = false;   // searched for in the normalized text, normalized itself
};

struct NormalizerStep {
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace, kStrip };
  Kind kind = Kind::kNfc;
  std::string from;   // kReplace: this text, not a pattern
  std::string to;     // kReplace; kPrepend: what is put before a text that is not empty
  bool left = false;  // kStrip
  bool right = false;
};

struct SplitStep {
  enum class Kind {
    kPattern,      // `text` is a published regular expression: text/split_patterns.h
    kText,         // `text` itself
    kDigits,       // runs of numbers
    kEachDigit,    // each number
    kPrefixSpace,  // cuts nothing: puts a space before a piece that begins with none
    kMetaspace,    // spaces become `text`, which begins pieces
  };
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend { kAlways, kFirst, kNever };
  Kind kind = Kind::kPattern;
  std::string text;
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;                 // the pieces are what lies between matches
  bool cut = true;                     // kMetaspace: cut before each `text`
  Prepend prepend = Prepend::kAlways;  // kMetaspace: `text` before a piece that begins with none
};

struct DecoderStep {
  enum class Kind {
    kByteLevel,  // the alphabet of TokenizerSpec::kByteLevel
    kReplace,    // `from` by `to`
    kByteFallback,
    kMetaspace,   // `from` by a space, or by nothing in the first token if `strip_first`
    kStrip,       // up to `start` spaces before and `stop` after each token
    kStripFirst,  // up to one space before the whole text
  };
  Kind kind = Kind::kByteLevel;
  std::string from;
  std::string to;
  bool strip_first = false;
  int start = 0;
  int stop = 0;
};

struct TokenizerSpec {
  // "bpe": symbols are bytes, tokens are spelled in the printable-byte alphabet of GPT-2. "spm":
  // symbols are characters; one that has no token is spelled in bytes (byte fallback).
  std::string model = "bpe";
  // Name in the pre-tokenizer registry ("smollm", ...): its splits and normalizer. Empty: those
  // below.
  std::string pre_tokenizer;
  // tokens[id] as the file spells it (control and user-defined tokens as plain text). Bytes; need
  // not be valid UTF-8.
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;  // as many as tokens
  // The merge rules, most important first, as "left right" or by id. "spm" may have scores instead:
  // any two neighbours that make a token merge, the highest score first.
  std::vector<std::string> merges;
  std::vector<std::pair<TokenId, TokenId>> merge_ids;
  std::vector<float> scores;
  TokenId bos = -1;  // -1: none
  TokenId eos = -1;
  TokenId unknown = -1;
  bool add_bos = false;
  bool add_eos = false;
  // In place of add_bos and add_eos where a file lists more than those.
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;

  std::vector<AddedToken> added;  // rules; a token without one has all false
  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> splits;
  std::vector<DecoderStep> decoder;  // empty: kByteLevel for "bpe"
  bool byte_fallback = false;        // "spm": kByte tokens spell what has no token
  bool ignore_merges = false;        // a piece that is a token is not merged
  // Put `unknown` where a symbol has no token and no bytes; else it is left out.
  bool emit_unknown = false;
  bool fuse_unknown = false;  // neighbouring unknown characters are one unknown token
};

// For "spm" vocabularies of files that do not list steps (GGUF): the normalizer and decoder of
// SentencePiece, where U+2581 stands for a space and, with `add_space_prefix`, one is put before.
void SetSentencePieceSteps(bool add_space_prefix, TokenizerSpec& spec);

}  // namespace millrace::text
