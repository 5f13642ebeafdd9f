#pragma once
// What a sequence has said so far, counted as it grows: a step costs the distinct tokens, not the
// length.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "messages/request.h"

namespace millrace::executor {

// Thread: one caller at a time.
class PenaltyCounts {
 public:
  // `history` is prompt then output; the first `prompt_tokens` are the prompt.
  void Reset(std::span<const TokenId> history, int32_t prompt_tokens);
  void AddOutput(TokenId token);
  // Changes logits[vocab] as SamplingParams says: first the factor over prompt and output, then
  // what counts over output only.
  void Apply(const SamplingParams& params, float* logits) const;

 private:
  struct Entry {
    TokenId token = 0;
    int32_t outputs = 0;  // times in the output
  };
  Entry& At(TokenId token);

  std::vector<Entry> entries_;
  absl::flat_hash_map<TokenId, uint32_t> index_;
};

}  // namespace millrace::executor
