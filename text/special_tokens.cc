#include "text/special_tokens.h"

#include "base/check.h"

namespace millrace::text {

void SpecialTokens::Add(std::string_view spelling, TokenId id, bool always) {
  DCHECK(!spelling.empty() && spelling.size() <= kBytesMax);
  uint32_t node = 0;
  for (unsigned char byte : spelling) {
    auto added = edges_.try_emplace(uint64_t{node} << 8 | byte, nodes_.size());
    if (added.second) nodes_.emplace_back();
    node = added.first->second;
  }
  first_byte_[static_cast<unsigned char>(spelling[0])] = true;
  any_always_ |= always;
  if (nodes_[node].id < 0) nodes_[node] = {id, always};
}

SpecialTokens::Match SpecialTokens::LongestAt(std::string_view text, size_t at,
                                              const EncodeOptions& options, size_t range_at) const {
  // A control token must end before the next plain range begins.
  size_t control_end = options.parse_special ? text.size() : at;
  if (range_at < options.plain_ranges.size() && options.parse_special) {
    control_end = std::min(control_end, options.plain_ranges[range_at].begin);
  }
  Match best;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const Node& here = nodes_[node];
    if (here.id >= 0 && (here.always || i + 1 <= control_end)) best = {at, i + 1, here.id};
  }
  return best;
}

SpecialTokens::Match SpecialTokens::Find(std::string_view text, size_t from,
                                         const EncodeOptions& options, size_t& range_at) const {
  if (nodes_.size() == 1 || (!options.parse_special && !any_always_)) return {};
  for (size_t at = from; at < text.size(); ++at) {
    if (!first_byte_[static_cast<unsigned char>(text[at])]) continue;
    // Ranges that end before this place, and empty ones, cannot overlap a match that begins here.
    while (range_at < options.plain_ranges.size() &&
           (options.plain_ranges[range_at].end <= at ||
            options.plain_ranges[range_at].end <= options.plain_ranges[range_at].begin)) {
      ++range_at;
    }
    Match match = LongestAt(text, at, options, range_at);
    if (match.id >= 0) return match;
  }
  return {};
}

}  // namespace millrace::text
