#pragma once
// A directory that holds a Hugging Face checkpoint, and what may be read through it: regular files
// that lie in it, by plain names. A link is followed when what it opens lies in the directory too,
// or in the `blobs` folder of the Hugging Face cache whose snapshot the directory is:
//
//   models--org--name/blobs/<hash>                 the bytes
//   models--org--name/snapshots/<commit>/<file>    links to ../../blobs/<hash>
//
// Anything else that a link leads to is refused: a checkpoint from elsewhere cannot make a node
// read files that are none of its own. What was opened decides, not what the link says, so nothing
// can be exchanged between the check and the use.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/mapped_file.h"

namespace millrace::model {

// Thread: immutable.
class HfDirectory {
 public:
  static absl::StatusOr<std::unique_ptr<HfDirectory>> Open(const std::string& path);
  ~HfDirectory();
  HfDirectory(const HfDirectory&) = delete;
  HfDirectory& operator=(const HfDirectory&) = delete;

  // "dir/name", for messages.
  std::string Shown(std::string_view name) const;
  // Whether there is an entry of this name, of any kind.
  bool Has(const std::string& name) const;
  // Names that end in `suffix`, sorted.
  absl::StatusOr<std::vector<std::string>> List(std::string_view suffix) const;

  // NotFound or InvalidArgument: one line that names the file.
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& name) const;
  // A whole JSON object.
  absl::StatusOr<Json> ReadJson(const std::string& name, const JsonLimits& limits) const;

 private:
  HfDirectory(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  absl::Status CheckWhere(int file, const std::string& name) const;

  int fd_;
  std::string path_;   // as given
  std::string real_;   // resolved
  std::string blobs_;  // resolved; empty when the directory is no snapshot of a cache
};

// True when `name` is a plain name of a file: no separators, not "." or "..", no NUL.
bool IsPlainFileName(std::string_view name);

}  // namespace millrace::model
