#pragma once
// The folder's front door: a path becomes a model.
//
//   ModelFile::Open   maps and checks everything but the numbers: milliseconds, no memory
//   PlanMemory        says whether it fits (model/memory_plan.h)
//   LoadModel         packs the weights, drops the file's pages as it goes
//
// The file stays mapped for its metadata (the tokenizer reads it in place); drop the ModelFile when
// that is done, and a file that changes later can no longer hurt.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/architectures.h"
#include "model/gguf.h"
#include "model/mapped_file.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

// Thread: immutable.
class ModelFile {
 public:
  // InvalidArgument or NotFound: one line that names the file and the tensor or key.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);

  const ModelDescription& description() const { return description_; }
  const GgufMetadata& metadata() const { return contents_.metadata; }
  const MappedFile& mapped() const { return *mapped_; }

 private:
  ModelFile() = default;
  std::unique_ptr<MappedFile> mapped_;
  GgufContents contents_;
  ModelDescription description_;
};

struct LoadedModel {
  std::unique_ptr<ModelFile> file;  // may be reset once the metadata has been read
  std::unique_ptr<Transformer> transformer;
};

struct LoadOptions {
  LoadProgress progress;  // may be empty
};

// Packs on `stream`'s pool.
absl::StatusOr<LoadedModel> LoadModel(std::unique_ptr<ModelFile> file, const LoadOptions& options,
                                      kernels::Stream& stream);
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const LoadOptions& options,
                                      kernels::Stream& stream);

}  // namespace millrace::model
