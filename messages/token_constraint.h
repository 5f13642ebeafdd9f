#pragma once
// The one abstract of this folder: what grammar/ will make and the sampler will ask.

#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"

namespace millrace {

// Which tokens may come next. Thread: one sequence's owner at a time.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets bit t of `mask` (little-endian words, vocabulary bits) when token t may come next.
  virtual void FillMask(std::span<uint32_t> mask) const = 0;
  // False when `token` was not allowed; the state is then unchanged.
  virtual bool Accept(TokenId token) = 0;
  // Takes back the last `count` accepted tokens (rejected drafts).
  virtual void Rollback(int count) = 0;
  // An independent copy (n > 1).
  virtual std::unique_ptr<TokenConstraint> Fork() const = 0;
};

}  // namespace millrace
