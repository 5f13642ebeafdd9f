#pragma once
// A Hugging Face checkpoint as it lies in a directory: its configuration files and the tensors of
// its safetensors files, mapped. Which files are read, as the transformers library does:
//
//   config.json                    sizes, family, and quantization_config; quantize_config.json or
//                                  quant_config.json when the latter is missing
//   model.safetensors              else the shards that model.safetensors.index.json names, else
//                                  the only .safetensors file there is
//   generation_config.json         end tokens, when there

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/hf_directory.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"

namespace millrace::model {

struct HfShard {
  std::string file;  // for messages
  std::vector<SafetensorsTensor> tensors;
};

// What hf_model.h makes a description of; views bytes that others own.
struct HfSource {
  std::string path;  // of the directory
  std::string config_file;
  Json config;
  std::string quantization_file;  // empty: none
  Json quantization;              // the quantization_config object
  std::string generation_file;    // empty: none
  Json generation;
  std::vector<HfShard> shards;
};

// Thread: immutable.
class HfCheckpoint {
 public:
  // Reads headers, no weights. NotFound or InvalidArgument: one line that names the file.
  static absl::StatusOr<std::unique_ptr<HfCheckpoint>> Open(const std::string& path);

  const HfSource& source() const { return source_; }
  const HfDirectory& directory() const { return *directory_; }
  const std::vector<std::unique_ptr<MappedFile>>& files() const { return files_; }

 private:
  HfCheckpoint() = default;
  absl::Status ReadConfigs();
  absl::Status ReadShards();
  absl::Status ReadIndexed(const std::string& index);
  absl::Status ReadShard(const std::string& name);

  std::unique_ptr<HfDirectory> directory_;
  std::vector<std::unique_ptr<MappedFile>> files_;  // as source_.shards
  HfSource source_;
};

}  // namespace millrace::model
