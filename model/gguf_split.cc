#include "model/gguf_split.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace millrace::model {
namespace {

constexpr int64_t kMaxParts = 1024;

absl::Status Error(const GgufMetadata& metadata, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(metadata.file_name(), ": ", why));
}

// An integer key, or what holds without it.
absl::StatusOr<int64_t> IntOr(const GgufMetadata& metadata, const char* key, int64_t fallback) {
  if (!metadata.Has(key)) return fallback;
  return metadata.Int(key);
}

}  // namespace

absl::StatusOr<int64_t> GgufPartCount(const GgufContents& first) {
  const GgufMetadata& metadata = first.metadata;
  ASSIGN_OR_RETURN(const int64_t count, IntOr(metadata, "split.count", 1));
  if (count == 0) return 1;  // what some writers say of a whole file
  if (count < 1 || count > kMaxParts) {
    return Error(metadata, absl::StrCat("key 'split.count' is ", count, "; it must be from 1 to ",
                                        kMaxParts));
  }
  ASSIGN_OR_RETURN(const int64_t number, IntOr(metadata, "split.no", 0));
  if (number != 0) {
    return Error(metadata, absl::StrCat("part ", number + 1, " of ", count,
                                        " of a split model; give the path of the first part"));
  }
  return count;
}

absl::StatusOr<std::vector<std::string>> GgufPartPaths(const std::string& first, int64_t parts) {
  const std::string ending = absl::StrFormat("-00001-of-%05d.gguf", parts);
  if (first.size() <= ending.size() ||
      first.compare(first.size() - ending.size(), ending.size(), ending) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(first, ": the first of ", parts,
                                                   " parts, but its name does not end in ", ending,
                                                   ", so that the others cannot be found"));
  }
  const std::string stem = first.substr(0, first.size() - ending.size());
  std::vector<std::string> out;
  for (int64_t i = 1; i <= parts; ++i) {
    out.push_back(absl::StrFormat("%s-%05d-of-%05d.gguf", stem, i, parts));
  }
  return out;
}

absl::Status AddGgufPart(GgufContents part, GgufContents* whole) {
  const GgufMetadata& metadata = part.metadata;
  ASSIGN_OR_RETURN(const int64_t count, IntOr(metadata, "split.count", -1));
  ASSIGN_OR_RETURN(const int64_t number, IntOr(metadata, "split.no", -1));
  ASSIGN_OR_RETURN(const int64_t expected, IntOr(whole->metadata, "split.count", 1));
  const int64_t index = static_cast<int64_t>(whole->files.size());
  if (count != expected || number != index) {
    return Error(metadata,
                 absl::StrCat("says it is part ", number + 1, " of ", count,
                              "; its name and the first part say ", index + 1, " of ", expected));
  }
  absl::flat_hash_set<std::string_view> names;
  for (const GgufTensor& tensor : whole->tensors) names.insert(tensor.name);
  for (GgufTensor& tensor : part.tensors) {
    if (names.contains(tensor.name)) {
      return Error(metadata,
                   absl::StrCat("tensor ", QuoteName(tensor.name), " is in another part too"));
    }
    tensor.part = static_cast<size_t>(index);
    whole->tensors.push_back(tensor);
  }
  whole->files.push_back(metadata.file_name());
  return absl::OkStatus();
}

absl::Status CheckGgufParts(const GgufContents& whole) {
  ASSIGN_OR_RETURN(const int64_t parts, GgufPartCount(whole));
  if (static_cast<int64_t>(whole.files.size()) != parts) {
    return Error(whole.metadata, absl::StrCat("the first of ", parts, " parts, and ",
                                              whole.files.size(), " are there"));
  }
  const int64_t tensors = static_cast<int64_t>(whole.tensors.size());
  ASSIGN_OR_RETURN(const int64_t promised, IntOr(whole.metadata, "split.tensors.count", tensors));
  if (promised == tensors) return absl::OkStatus();
  return Error(whole.metadata, absl::StrCat("key 'split.tensors.count' is ", promised,
                                            ", but the parts have ", tensors, " tensors"));
}

}  // namespace millrace::model
