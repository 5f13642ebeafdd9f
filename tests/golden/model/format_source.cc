#include "tests/golden/model/format_source.h"

namespace millrace::golden {
namespace {

using kernels::FloatToHalf;
using kernels::HalfToFloat;
using model::SafetensorsType;

void AppendWord(std::vector<std::byte>* out, uint32_t value, size_t width) {
  const size_t at = out->size();
  out->resize(at + width);
  std::memcpy(out->data() + at, &value, width);
}

SafetensorsType TypeNamed(const std::string& name) {
  if (name == "F16") return SafetensorsType::kF16;
  return name == "BF16" ? SafetensorsType::kBF16 : SafetensorsType::kF32;
}

HfPart Part(const std::string& name, SafetensorsType type, std::vector<int64_t> shape,
            std::vector<std::byte> data) {
  HfPart out;
  out.tensor.name = name;
  out.tensor.type = type;
  out.tensor.shape = std::move(shape);
  out.data = std::move(data);
  return out;
}

}  // namespace

// Rounded to nearest, ties to even.
std::vector<std::byte> FormatSource::Encode(const std::string& type,
                                            const std::vector<float>& values) {
  if (type == "F32") return BytesOf(values);
  std::vector<std::byte> out;
  for (float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    AppendWord(&out, type == "F16" ? FloatToHalf(value) : bits, 2);
  }
  return out;
}

std::vector<std::byte> FormatSource::GgufMatrix(const std::string& tensor, int64_t rows,
                                                int64_t cols, float scale) const {
  if (Text("method") == "plain") {
    return Encode(Text("scale"), Values(tensor, rows * cols, 0, scale));
  }
  const int64_t count = rows * cols / Int("values"), size = Int("bytes");
  std::vector<std::byte> out = Bytes(tensor, "codes", count * size);
  const std::vector<float> scales = Scales(tensor, count, Base(scale));
  const float ratio = JsonFloat(*spec_.Find("ratio"));
  const JsonArray& halves = spec_.Find("halves")->array();
  const bool tie = Text("name") == "Q4_K" || Text("name") == "Q5_K";
  for (int64_t i = 0; i < count; ++i) {
    std::byte* const block = out.data() + i * size;
    uint16_t half = FloatToHalf(scales[static_cast<size_t>(i)]);
    for (size_t h = 0; h < halves.size(); ++h) {
      if (h > 0) half = FloatToHalf(HalfToFloat(half) * ratio);
      std::memcpy(block + JsonInt(halves[h]), &half, 2);
    }
    auto* const packed = reinterpret_cast<uint8_t*>(block + 4);
    for (int j = 0; tie && j < 4; ++j) {
      packed[4 + j] = static_cast<uint8_t>((packed[4 + j] & 7) | (packed[j] & 0xF8));
      packed[8 + j] = static_cast<uint8_t>((packed[8 + j] & 0x7F) | ((packed[8 + j] & 8) << 4));
    }
  }
  return out;
}

std::vector<HfPart> FormatSource::Plain(const HfTensor& tensor) const {
  const std::string type = Text("method") == "plain" ? Text("scale") : "F32";
  std::vector<int64_t> shape = {tensor.cols};
  if (tensor.rows > 0) shape.insert(shape.begin(), tensor.rows);
  const int64_t count = tensor.cols * std::max<int64_t>(tensor.rows, 1);
  return {Part(tensor.name, TypeNamed(type), shape,
               Encode(type, Values(tensor.name, count, tensor.mean, tensor.scale)))};
}

std::vector<HfPart> FormatSource::Grouped(const HfTensor& tensor) const {
  const std::string& name = tensor.name;
  const std::string module = name.substr(0, name.rfind('.') + 1), method = Text("method");
  const int64_t n = tensor.rows, k = tensor.cols, per_word = 32 / Int("bits");
  const int64_t size = Int("group") > 0 ? Int("group") : k, groups = (k + size - 1) / size;
  const bool by_column = method == "gptq" || method == "awq";
  std::vector<HfPart> out;
  const auto scales = [&](const char* leaf) {
    const std::string type = Text("scale");
    out.push_back(Part(module + leaf, TypeNamed(type),
                       by_column ? std::vector{groups, n} : std::vector{n, groups},
                       Encode(type, Scales(name, groups * n, Base(tensor.scale)))));
  };
  const auto words = [&](const char* leaf, const char* part, int64_t rows, int64_t cols) {
    out.push_back(Part(module + leaf, SafetensorsType::kI32, {rows, cols},
                       Bytes(name, part, 4 * rows * cols)));
  };
  const std::string& zeros = Text("zeros");
  if (by_column) {
    const bool awq = method == "awq";
    words("qweight", "codes", awq ? k : k / per_word, awq ? n / 8 : n);
    words("qzeros", "zeros", groups, n / per_word);
    if (zeros != "random") {
      const auto word = static_cast<uint32_t>(std::stoul(zeros, nullptr, 16));
      out.back().data = BytesOf(std::vector(static_cast<size_t>(groups * n / per_word), word));
    }
    scales("scales");
  } else if (method == "packed") {
    words("weight_packed", "codes", n, k / per_word);
    if (zeros == "random") words("weight_zero_point", "zeros", n / per_word, groups);
    out.push_back(Part(module + "weight_shape", SafetensorsType::kI64, {2},
                       BytesOf(std::vector<int64_t>{n, k})));
    scales("weight_scale");
  } else {
    out.push_back(Part(name, SafetensorsType::kI8, {n, k}, Bytes(name, "codes", n * k)));
    scales("weight_scale");
  }
  if (spec_.Find("order")->bool_value()) out.push_back(Order(name, module + "g_idx", size, k));
  return out;
}

HfPart FormatSource::Order(const std::string& tensor, const std::string& leaf, int64_t size,
                           int64_t cols) const {
  const uint64_t seed = Seed(tensor, "order");
  std::vector<int32_t> order(static_cast<size_t>(cols)), group(order.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [seed](int32_t a, int32_t b) {
    return SplitMix(seed + static_cast<uint64_t>(a)) < SplitMix(seed + static_cast<uint64_t>(b));
  });
  for (size_t i = 0; i < order.size(); ++i) {
    group[static_cast<size_t>(order[i])] = static_cast<int32_t>(static_cast<int64_t>(i) / size);
  }
  return Part(leaf, SafetensorsType::kI32, {cols}, BytesOf(group));
}

}  // namespace millrace::golden
