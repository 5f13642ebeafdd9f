#include "model/load_model.h"

#include "base/status_macros.h"
#include "model/gguf_model.h"

namespace millrace::model {

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  std::unique_ptr<ModelFile> file(new ModelFile());
  ASSIGN_OR_RETURN(file->mapped_, MappedFile::Open(path));
  ASSIGN_OR_RETURN(file->contents_, ParseGguf(file->mapped_->bytes(), path));
  ASSIGN_OR_RETURN(file->description_, DescribeGguf(file->contents_));
  return file;
}

absl::StatusOr<LoadedModel> LoadModel(std::unique_ptr<ModelFile> file, const LoadOptions& options,
                                      kernels::Stream& stream) {
  const ModelDescription& description = file->description();
  const Architecture* architecture = FindArchitecture(description.config.architecture);
  const MappedFile& mapped = file->mapped();
  PackArgs args;
  args.stream = &stream;
  args.progress = options.progress;
  args.packed = [&mapped](const kernels::RawMatrix& raw) {
    mapped.Drop({static_cast<const std::byte*>(raw.data), raw.bytes});
  };
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
