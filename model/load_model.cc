#include "model/load_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf_model.h"
#include "model/gguf_split.h"
#include "model/hf_model.h"

namespace millrace::model {
namespace {

// A scale that is infinite or no number would spread to every answer: better no model than that.
absl::Status CheckScales(const ModelDescription& description, const ModelFile& file) {
  std::set<const void*> seen;  // parts of fused matrices share theirs
  for (const auto& item : description.tensors) {
    const kernels::RawGroups* groups = item.second.matrix.groups;
    if (groups == nullptr || !seen.insert(groups->scales).second) continue;
    kernels::RawMatrix scales;
    scales.type = groups->scale_type;
    scales.rows = 1;
    scales.cols = static_cast<int64_t>(groups->scale_bytes) / kernels::BlockBytes(scales.type);
    scales.data = groups->scales;
    scales.bytes = groups->scale_bytes;
    std::vector<float> values(static_cast<size_t>(scales.cols));
    kernels::DequantizeRawRow(scales, 0, values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      return absl::InvalidArgumentError(absl::StrCat(TensorPlace(description, item.second),
                                                     ": its scale ", i, " is no finite number"));
    }
    file.Drop(scales);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelFile::OpenGguf(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> first, MappedFile::Open(path));
  ASSIGN_OR_RETURN(contents_, ParseGguf(first->bytes(), path));
  parts_.push_back(std::move(first));
  ASSIGN_OR_RETURN(const int64_t count, GgufPartCount(contents_));
  if (count > 1) {
    ASSIGN_OR_RETURN(const std::vector<std::string> paths, GgufPartPaths(path, count));
    for (size_t i = 1; i < paths.size(); ++i) {
      ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> part, MappedFile::Open(paths[i]));
      ASSIGN_OR_RETURN(GgufContents contents, ParseGguf(part->bytes(), paths[i]));
      RETURN_IF_ERROR(AddGgufPart(std::move(contents), &contents_));
      parts_.push_back(std::move(part));
    }
  }
  ASSIGN_OR_RETURN(description_, DescribeGguf(contents_));
  return absl::OkStatus();
}

absl::Status ModelFile::OpenDirectory(const std::string& path) {
  ASSIGN_OR_RETURN(checkpoint_, HfCheckpoint::Open(path));
  ASSIGN_OR_RETURN(description_, DescribeHf(checkpoint_->source(), &groups_));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path, HeadType head) {
  std::unique_ptr<ModelFile> file(new ModelFile());
  struct stat info {};
  const bool directory = ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  RETURN_IF_ERROR(directory ? file->OpenDirectory(path) : file->OpenGguf(path));
  ChooseHead(head, &file->description_);
  // A page that is touched may bring its neighbours along: let all of them go again.
  for (const MappedFile* mapped : file->files()) mapped->Drop(mapped->bytes());
  return file;
}

std::vector<const MappedFile*> ModelFile::files() const {
  std::vector<const MappedFile*> out;
  for (const auto& part : checkpoint_ != nullptr ? checkpoint_->files() : parts_) {
    out.push_back(part.get());
  }
  return out;
}

void ModelFile::Drop(const kernels::RawMatrix& matrix) const {
  const std::vector<const MappedFile*> mapped = files();
  ForEachFilePart(matrix, [&mapped](std::span<const std::byte> part) {
    for (const MappedFile* file : mapped) {
      // Only memory that is a file's own: what is dropped elsewhere would be lost.
      if (file->Contains(part.data())) file->Drop(part);
    }
  });
}

uint64_t ModelFile::ContentHash() const {
  uint64_t hash = 0x9e3779b97f4a7c15;
  // Pages are let go as they are read, so that a model is never in memory twice.
  constexpr size_t kWindow = size_t{16} << 20;
  for (const MappedFile* mapped : files()) {
    const std::span<const std::byte> bytes = mapped->bytes();
    hash ^= bytes.size();
    for (size_t begin = 0; begin < bytes.size(); begin += kWindow) {
      const std::span<const std::byte> window =
          bytes.subspan(begin, std::min(kWindow, bytes.size() - begin));
      for (size_t i = 0; i + 8 <= window.size(); i += 8) {
        uint64_t word;
        std::memcpy(&word, window.data() + i, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccd;
        hash ^= hash >> 32;
      }
      mapped->Drop(window);
    }
  }
  // What a directory says of its tensors is in no file of weights.
  if (checkpoint_ != nullptr) {
    const HfSource& source = checkpoint_->source();
    hash ^= std::hash<std::string>{}(source.config.Dump() + source.quantization.Dump());
  }
  return hash;
}

bool CoversModel(const StoredWeights& stored, const ModelDescription& description) {
  return std::all_of(description.tensors.begin(), description.tensors.end(), [&](const auto& item) {
    if (item.second.matrix.rows == 1) return true;  // a vector: read from the source
    return !stored.Find(item.first, DescribePacked(description, item.first)).empty();
  });
}

absl::StatusOr<LoadedModel> LoadModel(std::unique_ptr<ModelFile> file, const LoadOptions& options,
                                      kernels::Stream& stream) {
  ModelDescription description = file->description();
  // What is stored had its scales checked when it was packed.
  if (options.stored == nullptr || !CoversModel(*options.stored, description)) {
    RETURN_IF_ERROR(CheckScales(description, *file));
  }
  description.config.context_length =
      std::max(description.config.context_length, options.context_length);
  const Architecture* architecture = FindArchitecture(description.config.architecture);
  PackArgs args;
  args.stream = &stream;
  args.progress = options.progress;
  args.stored = options.stored;
  args.made = options.made;
  args.packed = [&file](const kernels::RawMatrix& raw) { file->Drop(raw); };
  LoadedModel out;
  ASSIGN_OR_RETURN(out.transformer, architecture->make(description, args));
  out.file = std::move(file);
  return out;
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const LoadOptions& options,
                                      kernels::Stream& stream) {
  ASSIGN_OR_RETURN(std::unique_ptr<ModelFile> file, ModelFile::Open(path));
  return LoadModel(std::move(file), options, stream);
}

}  // namespace millrace::model
