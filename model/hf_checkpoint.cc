#include "model/hf_checkpoint.h"

#include <map>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"

namespace millrace::model {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxShards = 4096;

// An index has one entry a tensor: more than a configuration, less than a tokenizer.
JsonLimits IndexLimits() {
  JsonLimits limits;
  limits.bytes_max = size_t{64} << 20;
  limits.depth_max = 8;
  limits.values_max = 300'000;
  limits.keys_per_object_max = 262'144;
  return limits;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HfCheckpoint>> HfCheckpoint::Open(const std::string& path) {
  std::unique_ptr<HfCheckpoint> out(new HfCheckpoint());
  ASSIGN_OR_RETURN(out->directory_, HfDirectory::Open(path));
  out->source_.path = path;
  RETURN_IF_ERROR(out->ReadConfigs());
  RETURN_IF_ERROR(out->ReadShards());
  return out;
}

absl::Status HfCheckpoint::ReadConfigs() {
  source_.config_file = directory_->Shown("config.json");
  ASSIGN_OR_RETURN(source_.config, directory_->ReadJson("config.json", {}));
  if (const Json* inside = source_.config.Find("quantization_config");
      inside != nullptr && !inside->is_null()) {
    source_.quantization = *inside;
    source_.quantization_file = source_.config_file;
  } else {
    for (const char* name : {"quantize_config.json", "quant_config.json"}) {
      if (!directory_->Has(name)) continue;
      source_.quantization_file = directory_->Shown(name);
      ASSIGN_OR_RETURN(source_.quantization, directory_->ReadJson(name, {}));
      // The files that AutoGPTQ and AutoAWQ write: the first does not name its method.
      if (source_.quantization.Find("quant_method") == nullptr &&
          source_.quantization.Find("method") == nullptr) {
        const bool gptq = name == std::string_view("quantize_config.json");
        source_.quantization.Add("quant_method", gptq ? "gptq" : "awq");
      }
      break;
    }
  }
  constexpr char kGeneration[] = "generation_config.json";
  if (!directory_->Has(kGeneration)) return absl::OkStatus();
  source_.generation_file = directory_->Shown(kGeneration);
  ASSIGN_OR_RETURN(source_.generation, directory_->ReadJson(kGeneration, {}));
  return absl::OkStatus();
}

absl::Status HfCheckpoint::ReadShard(const std::string& name) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, directory_->Map(name));
  HfShard shard;
  shard.file = directory_->Shown(name);
  ASSIGN_OR_RETURN(shard.tensors, ParseSafetensors(file->bytes(), shard.file));
  files_.push_back(std::move(file));
  source_.shards.push_back(std::move(shard));
  return absl::OkStatus();
}

absl::Status HfCheckpoint::ReadIndexed(const std::string& index) {
  const std::string shown = directory_->Shown(index);
  ASSIGN_OR_RETURN(const Json json, directory_->ReadJson(index, IndexLimits()));
  const Json* map = json.Find("weight_map");
  if (map == nullptr || !map->is_object() || map->object().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": 'weight_map' is no list of tensors"));
  }
  absl::flat_hash_map<std::string_view, std::string_view> file_of;
  std::map<std::string, size_t> tensors_in;  // sorted: shards in the order of their numbers
  for (const auto& [tensor, file] : map->object()) {
    if (!file.is_string() || !IsPlainFileName(file.string_value())) {
      return absl::InvalidArgumentError(absl::StrCat(
          shown, ": tensor ", QuoteName(tensor), " is not mapped to a plain name of a file",
          file.is_string() ? absl::StrCat(": ", QuoteName(file.string_value())) : std::string()));
    }
    file_of.emplace(tensor, file.string_value());
    ++tensors_in[file.string_value()];
    if (tensors_in.size() > kMaxShards) {
      return absl::InvalidArgumentError(absl::StrCat(shown, ": more than ", kMaxShards, " files"));
    }
  }
  for (const auto& [name, count] : tensors_in) {
    RETURN_IF_ERROR(ReadShard(name));
    const HfShard& shard = source_.shards.back();
    absl::flat_hash_set<std::string_view> here;
    for (const SafetensorsTensor& tensor : shard.tensors) {
      here.insert(tensor.name);
      const auto it = file_of.find(tensor.name);
      if (it == file_of.end() || it->second != name) {
        return absl::InvalidArgumentError(
            absl::StrCat(shard.file, ": tensor ", QuoteName(tensor.name), " is here, but ", shown,
                         it == file_of.end() ? " does not know it" : " says another file"));
      }
    }
    if (here.size() == count) continue;
    for (const auto& [tensor, file] : map->object()) {
      if (file.string_value() != name || here.contains(tensor)) continue;
      return absl::InvalidArgumentError(absl::StrCat(shard.file, ": tensor ", QuoteName(tensor),
                                                     " is missing; ", shown, " promises it"));
    }
  }
  return absl::OkStatus();
}

absl::Status HfCheckpoint::ReadShards() {
  if (directory_->Has(kSingle)) return ReadShard(kSingle);
  if (directory_->Has(kIndex)) return ReadIndexed(kIndex);
  ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_->List(".safetensors"));
  if (names.size() == 1) return ReadShard(names.front());
  return absl::NotFoundError(absl::StrCat(source_.path, ": neither ", kSingle, " nor ", kIndex,
                                          ", and ", names.size(),
                                          " other .safetensors files instead of one"));
}

}  // namespace millrace::model
