#include "tests/golden/model/format_golden.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "tests/golden/model/format_source.h"

namespace millrace::golden {
namespace {

// A GGUF file of given keys. Thread: one caller.
class GgufImage {
 public:
  GgufImage(std::string keys, int64_t count) : keys_(std::move(keys)), key_count_(count) {}

  void Add(const std::string& name, uint32_t type, const std::vector<int64_t>& dims,
           const std::vector<std::byte>& data) {
    Append(&table_, uint64_t{name.size()});
    table_ += name;
    Append(&table_, static_cast<uint32_t>(dims.size()));
    for (int64_t dim : dims) Append(&table_, dim);
    Append(&table_, type);
    Append(&table_, uint64_t{data_.size()});
    data_.append(reinterpret_cast<const char*>(data.data()), data.size());
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensor_count_;
  }
  std::vector<std::byte> Build() const {
    std::string out = "GGUF";
    Append(&out, uint32_t{3});
    Append(&out, tensor_count_);
    Append(&out, key_count_);
    out += keys_ + table_;
    out.resize((out.size() + 31) / 32 * 32);
    out += data_;
    return BytesOf(std::vector<char>(out.begin(), out.end()));
  }

 private:
  template <typename T>
  static void Append(std::string* out, T value) {
    out->append(reinterpret_cast<const char*>(&value), sizeof(T));
  }

  std::string keys_, table_, data_;
  int64_t key_count_ = 0, tensor_count_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FormatGolden>> FormatGolden::Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (bytes.size() < 8 || bytes.substr(0, 4) != "MRLF") {
    return absl::InvalidArgumentError(path + ": not a golden file");
  }
  std::unique_ptr<FormatGolden> out(new FormatGolden());
  uint32_t size = 0;
  std::memcpy(&size, bytes.data() + 4, 4);
  JsonLimits limits;
  limits.bytes_max = size_t{4} << 20;
  ASSIGN_OR_RETURN(out->header_, Json::Parse(std::string_view(bytes).substr(8, size), limits));
  const Json& header = out->header_;
  out->path_ = path;
  out->seed_ = std::stoull(header.Find("seed")->string_value(), nullptr, 16);
  out->vocab_ = static_cast<size_t>(JsonInt(*header.Find("config")->Find("vocab_size")));
  out->max_model_len_ = static_cast<int32_t>(JsonInt(*header.Find("max_model_len")));
  for (const Json& id : header.Find("ids")->array()) {
    out->ids_.push_back(static_cast<int32_t>(JsonInt(id)));
  }
  for (const Json& position : header.Find("positions")->array()) {
    out->positions_.push_back(static_cast<int32_t>(JsonInt(position)));
  }
  for (const Json& row : header.Find("tensors")->array()) {
    const JsonArray& shape = row.array()[1].array();
    Tensor tensor;
    tensor.name = row.array()[0].string_value();
    tensor.gguf_name = header.Find("gguf")->Find("names")->Find(tensor.name)->string_value();
    tensor.rows = shape.size() == 2 ? JsonInt(shape[0]) : 0;
    tensor.cols = JsonInt(shape.back());
    tensor.mean = JsonFloat(row.array()[2]), tensor.scale = JsonFloat(row.array()[3]);
    out->tensors_.push_back(tensor);
  }
  const size_t count = out->positions_.size() * out->vocab_;
  size_t at = 8 + size;
  for (const Json& spec : header.Find("formats")->array()) {
    FormatCase& format = out->formats_.emplace_back();
    format.spec = spec;
    format.carrier = spec.Find("carrier")->string_value();
    format.name = spec.Find("name")->string_value();
    for (const Json& value : spec.Find("simulated")->array()) {
      format.simulated.push_back(JsonDouble(value));
    }
    format.logits.resize(count);
    if (at + 4 * count > bytes.size()) return absl::InvalidArgumentError(path + ": cut short");
    std::memcpy(format.logits.data(), &bytes[at], 4 * count);
    at += 4 * count;
  }
  return out;
}

absl::StatusOr<std::unique_ptr<FormatModel>> FormatGolden::Make(const FormatCase& format) const {
  auto out = std::make_unique<FormatModel>();
  RETURN_IF_ERROR(format.carrier == "gguf" ? MakeGguf(format, out.get())
                                           : MakeHf(format, out.get()));
  return out;
}

absl::Status FormatGolden::MakeGguf(const FormatCase& format, FormatModel* out) const {
  const Json& gguf = *header_.Find("gguf");
  const FormatSource source(seed_, format.spec);
  const bool gemma = header_.Find("config")->Find("model_type")->string_value()[0] == 'g';
  GgufImage image(absl::HexStringToBytes(gguf.Find("kv")->string_value()),
                  JsonInt(*gguf.Find("keys")));
  for (const Tensor& tensor : tensors_) {
    if (tensor.rows == 0) {
      std::vector<float> values =
          source.Values(tensor.gguf_name, tensor.cols, tensor.mean, tensor.scale);
      // The converter adds the one that Gemma's norms are stored without.
      for (float& value : values) value += gemma ? 1.0f : 0.0f;
      image.Add(tensor.gguf_name, 0, {tensor.cols}, BytesOf(values));
      continue;
    }
    image.Add(tensor.gguf_name, static_cast<uint32_t>(JsonInt(*format.spec.Find("type"))),
              {tensor.cols, tensor.rows},
              source.GgufMatrix(tensor.gguf_name, tensor.rows, tensor.cols, tensor.scale));
  }
  for (const auto& [name, hex] : gguf.Find("literal")->object()) {
    const std::string data = absl::HexStringToBytes(hex.string_value());
    image.Add(name, 0, {static_cast<int64_t>(data.size() / 4)},
              BytesOf(std::vector<char>(data.begin(), data.end())));
  }
  out->storage.push_back(image.Build());
  ASSIGN_OR_RETURN(const model::GgufContents contents,
                   model::ParseGguf(out->storage.back(), path_));
  ASSIGN_OR_RETURN(out->description, model::DescribeGguf(contents));
  return absl::OkStatus();
}

absl::Status FormatGolden::MakeHf(const FormatCase& format, FormatModel* out) const {
  const FormatSource source(seed_, format.spec);
  model::HfSource& hf = out->source;
  hf.path = hf.config_file = path_;
  hf.config = *header_.Find("config");
  if (const Json* quantization = format.spec.Find("quantization"); quantization != nullptr) {
    hf.quantization = *quantization;
    hf.quantization_file = path_;
  }
  model::HfShard& shard = hf.shards.emplace_back();
  shard.file = path_;
  for (const Tensor& tensor : tensors_) {
    const bool inside = tensor.name.rfind("model.layers.", 0) == 0;
    std::vector<HfPart> parts = tensor.rows > 0 && inside && hf.quantization_file == path_
                                    ? source.Grouped(tensor)
                                    : source.Plain(tensor);
    for (HfPart& part : parts) {
      out->storage.push_back(std::move(part.data));
      part.tensor.data = out->storage.back();
      shard.tensors.push_back(part.tensor);
    }
  }
  ASSIGN_OR_RETURN(out->description, model::DescribeHf(hf, &out->groups));
  return absl::OkStatus();
}

}  // namespace millrace::golden
