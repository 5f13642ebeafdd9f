#include "text/special_tokens.h"

#include <algorithm>

#include "base/check.h"
#include "text/unicode.h"

namespace millrace::text {
namespace {

bool IsAlone(std::string_view text, size_t begin, size_t end) {
  const Character before = CharacterBefore(text, begin);
  const Character after = CharacterAt(text, end);
  const auto is_word = [](const Character& c) { return c.valid && IsWordCharacter(c.code_point); };
  return !is_word(before) && !is_word(after);
}

size_t SpaceBegin(std::string_view text, size_t begin, size_t floor) {
  while (begin > floor) {
    const Character c = CharacterBefore(text, begin);
    if (!c.valid || !IsWhiteSpace(c.code_point) || begin - c.length < floor) break;
    begin -= c.length;
  }
  return begin;
}

size_t SpaceEnd(std::string_view text, size_t end) {
  for (;;) {
    const Character c = CharacterAt(text, end);
    if (!c.valid || !IsWhiteSpace(c.code_point)) return end;
    end += c.length;
  }
}

}  // namespace

void SpecialTokens::Add(std::string_view spelling, const AddedToken& token, bool always) {
  DCHECK(!spelling.empty() && spelling.size() <= kBytesMax);
  uint32_t node = 0;
  for (unsigned char byte : spelling) {
    auto added = edges_.try_emplace(uint64_t{node} << 8 | byte, nodes_.size());
    if (added.second) nodes_.emplace_back();
    node = added.first->second;
  }
  first_byte_[static_cast<unsigned char>(spelling[0])] = true;
  any_always_ |= always;
  if (nodes_[node].token.id < 0) nodes_[node] = {token, always};
}

const SpecialTokens::Node* SpecialTokens::LongestAt(std::string_view text, size_t at,
                                                    size_t control_end, size_t& end) const {
  const Node* best = nullptr;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const Node& here = nodes_[node];
    if (here.token.id < 0 || (!here.always && i + 1 > control_end)) continue;
    best = &here;
    end = i + 1;
  }
  return best;
}

SpecialTokens::Match SpecialTokens::Find(std::string_view text, const EncodeOptions& options,
                                         Cursor& cursor) const {
  if (empty() || (!options.parse_special && !any_always_)) return {};
  const std::span<const TextRange> ranges = options.plain_ranges;
  for (size_t at = cursor.at; at < text.size(); ++at) {
    if (!first_byte_[static_cast<unsigned char>(text[at])]) continue;
    // Ranges that end before this place, and empty ones, cannot overlap a match that begins here.
    while (cursor.range < ranges.size() &&
           (ranges[cursor.range].end <= at ||
            ranges[cursor.range].end <= ranges[cursor.range].begin)) {
      ++cursor.range;
    }
    // A control token must end before the next plain range begins.
    size_t control_end = options.parse_special ? text.size() : at;
    if (cursor.range < ranges.size() && options.parse_special) {
      control_end = std::min(control_end, ranges[cursor.range].begin);
    }
    size_t end = at;
    const Node* node = LongestAt(text, at, control_end, end);
    if (node == nullptr) continue;
    if (node->token.single_word && !IsAlone(text, at, end)) {
      at = end - 1;  // the reference goes on behind it, too
      continue;
    }
    Match match = {at, end, node->token.id};
    cursor.at = end;
    if (node->token.lstrip) match.begin = SpaceBegin(text, at, cursor.taken);
    // What a token before this one took along is white space up to there: not looked at again.
    if (node->token.rstrip) match.end = SpaceEnd(text, std::max(end, cursor.taken));
    match.begin = std::max(match.begin, cursor.taken);
    match.end = std::max(match.end, match.begin);
    cursor.taken = match.end;
    return match;
  }
  return {};
}

}  // namespace millrace::text
