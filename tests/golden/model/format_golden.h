#pragma once
// Reads what make_format_golden.py writes and makes each model again in memory, as a GGUF file or
// as the tensors of a Hugging Face checkpoint, which then go through the node's own readers.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/gguf_model.h"
#include "model/hf_model.h"
#include "tests/golden/model/format_source.h"

namespace millrace::golden {

// A model in one format. Thread: one caller.
struct FormatModel {
  std::deque<std::vector<std::byte>> storage;
  std::deque<kernels::RawGroups> groups;
  model::HfSource source;
  model::ModelDescription description;
};

struct FormatCase {
  std::string carrier;  // gguf, safetensors
  std::string name;     // of the format
  Json spec;
  std::vector<double> simulated;  // KL of the default mode's number formats, a position
  std::vector<float> logits;      // [positions, vocab]
};

// Thread: immutable once read.
class FormatGolden {
 public:
  static absl::StatusOr<std::unique_ptr<FormatGolden>> Read(const std::string& path);

  // Through the readers; what they say when they refuse.
  absl::StatusOr<std::unique_ptr<FormatModel>> Make(const FormatCase& format) const;

  const std::vector<FormatCase>& formats() const { return formats_; }
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::vector<int32_t>& positions() const { return positions_; }
  int32_t max_model_len() const { return max_model_len_; }
  size_t vocab() const { return vocab_; }

 private:
  struct Tensor : HfTensor {
    std::string gguf_name;
  };

  absl::Status MakeGguf(const FormatCase& format, FormatModel* out) const;
  absl::Status MakeHf(const FormatCase& format, FormatModel* out) const;

  std::string path_;
  Json header_;
  uint64_t seed_ = 0;
  size_t vocab_ = 0;
  int32_t max_model_len_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<int32_t> ids_, positions_;
  std::vector<FormatCase> formats_;
};

}  // namespace millrace::golden
