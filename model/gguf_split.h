#pragma once
// Models that lie in several GGUF files: NAME-00001-of-00003.gguf and so on. The first has the
// keys; each says which part it is of how many.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf.h"

namespace millrace::model {

// How many files the model of this one has (its key "split.count"); 1 when it is not split.
// InvalidArgument when the number is none or when this is not the first part.
absl::StatusOr<int64_t> GgufPartCount(const GgufContents& first);

// The files of a model of `parts` parts, by the first one's path. InvalidArgument when that does
// not end in "-00001-of-<parts>.gguf".
absl::StatusOr<std::vector<std::string>> GgufPartPaths(const std::string& first, int64_t parts);

// Adds the tensors of part `number` (from 1) to those before. InvalidArgument names the file: it is
// another part, of another count, or has a tensor that another part has.
absl::Status AddGgufPart(GgufContents part, GgufContents* whole);

// All parts are there, and as many tensors as the first part promises.
absl::Status CheckGgufParts(const GgufContents& whole);

}  // namespace millrace::model
