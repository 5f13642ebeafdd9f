#pragma once
// The folder's front door: a path becomes a model.
//
//   ModelFile::Open   maps and checks everything but the numbers: milliseconds, no memory
//   PlanMemory        says whether it fits (model/memory_plan.h)
//   LoadModel         packs the weights, drops the files' pages as it goes
//
// A path is a .gguf file, the first part of a split one, or a Hugging Face directory. The files
// stay mapped for their metadata (the tokenizer reads it in place); drop the ModelFile when that is
// done, and a file that changes later can no longer hurt.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/architectures.h"
#include "model/gguf.h"
#include "model/hf_checkpoint.h"
#include "model/mapped_file.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace millrace::model {

// Thread: immutable, but for Drop (one caller at a time).
class ModelFile {
 public:
  // InvalidArgument or NotFound: one line that names the file and the tensor or key.
  // `head`: what the plan counts and LoadModel packs.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path,
                                                         HeadType head = HeadType::kSource);

  const ModelDescription& description() const { return description_; }
  // The directory's files, or null for GGUF.
  const HfCheckpoint* checkpoint() const { return checkpoint_.get(); }
  // REQUIRES: checkpoint() is null.
  const GgufMetadata& metadata() const { return contents_.metadata; }
  // The files with weights, in order.
  std::vector<const MappedFile*> files() const;
  // Lets go of the pages of a tensor (MappedFile::Drop).
  void Drop(const kernels::RawMatrix& matrix) const;
  // Of every byte of the files and, for a directory, of what it says of its tensors. Reads all.
  uint64_t ContentHash() const;

 private:
  ModelFile() = default;
  absl::Status OpenGguf(const std::string& path);
  absl::Status OpenDirectory(const std::string& path);

  std::vector<std::unique_ptr<MappedFile>> parts_;  // of GGUF
  GgufContents contents_;
  std::unique_ptr<HfCheckpoint> checkpoint_;
  std::deque<kernels::RawGroups> groups_;  // of the description's matrices
  ModelDescription description_;
};

struct LoadedModel {
  std::unique_ptr<ModelFile> file;  // may be reset once the metadata has been read
  // With LoadOptions::stored, the transformer reads from there as long as it lives.
  std::unique_ptr<Transformer> transformer;
};

struct LoadOptions {
  LoadProgress progress;  // may be empty
  // Positions that will be used; above the model's own only when someone forced it.
  int64_t context_length = 0;
  // Weights that were packed before: matrices that are there are not packed again. May be null.
  const StoredWeights* stored = nullptr;
  // Called with each matrix that was packed, for the next time. May be empty.
  PackedSink made;
};

// All matrices of the model are stored.
bool CoversModel(const StoredWeights& stored, const ModelDescription& description);

// Packs on `stream`'s pool. InvalidArgument names the file and the tensor: a scale that is no
// finite number.
absl::StatusOr<LoadedModel> LoadModel(std::unique_ptr<ModelFile> file, const LoadOptions& options,
                                      kernels::Stream& stream);
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const LoadOptions& options,
                                      kernels::Stream& stream);

}  // namespace millrace::model
