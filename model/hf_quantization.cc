#include "model/hf_quantization.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf.h"
#include "model/hf_keys.h"

namespace millrace::model {

using kernels::WeightType;

// Thread: one caller.
class QuantizationReader {
 public:
  QuantizationReader(const Json& config, const std::string& file)
      : config_(config), keys_(config, file, "quantization_config.") {
    out_.file_ = file;
  }

  absl::StatusOr<HfQuantization> Run();

 private:
  using Rule = HfQuantization::Rule;

  // GPTQ.
  absl::Status ReadGptq();
  absl::Status ReadGptqFormat(int* zero_offset) const;
  absl::Status ReadGptqScheme(const HfKeys& keys, QuantScheme* scheme) const;
  absl::Status ReadDynamic();
  // AWQ.
  absl::Status ReadAwq();
  // compressed-tensors.
  absl::Status ReadCompressed();
  absl::Status ReadGroup(const std::string& name, const Json& group, const std::string& format);
  absl::Status ReadWeights(const HfKeys& keys, QuantScheme* scheme) const;
  absl::Status CheckActivations(const HfKeys& keys) const;
  absl::Status ReadIgnore(const char* key, Rule::How plain);

  absl::Status AddRule(std::string_view key, std::string_view text, Rule rule);
  absl::StatusOr<const Json*> Object(const HfKeys& keys, std::string_view key, const Json* value);

  const Json& config_;
  HfKeys keys_;
  HfQuantization out_;
};

namespace {

constexpr size_t kMaxRules = 4096;

absl::Status CheckGroupSize(const HfKeys& keys, std::string_view key, int64_t size) {
  if (size == -1 || (size >= 1 && size <= (int64_t{1} << 20))) return absl::OkStatus();
  return keys.Error(key, absl::StrCat("is ", size, "; it must be -1 or from 1 to 2^20"));
}

bool OneOf(std::string_view value, std::initializer_list<std::string_view> of) {
  return std::find(of.begin(), of.end(), value) != of.end();
}

}  // namespace

absl::StatusOr<const Json*> QuantizationReader::Object(const HfKeys& keys, std::string_view key,
                                                       const Json* value) {
  if (value == nullptr || !value->is_object()) return keys.Error(key, "is no object");
  return value;
}

absl::Status QuantizationReader::AddRule(std::string_view key, std::string_view text, Rule rule) {
  if (out_.rules_.size() >= kMaxRules) {
    return keys_.Error(key, absl::StrCat("brings the rules above ", kMaxRules));
  }
  rule.text = std::string(text);
  if (rule.how == Rule::How::kPattern) {
    absl::StatusOr<ModulePattern> compiled = ModulePattern::Compile(text);
    if (!compiled.ok()) return keys_.Error(key, std::string(compiled.status().message()));
    rule.pattern.push_back(*std::move(compiled));
  }
  out_.rules_.push_back(std::move(rule));
  return absl::OkStatus();
}

// Which convention zero points follow; other layouts than GPTQ's own are refused.
absl::Status QuantizationReader::ReadGptqFormat(int* zero_offset) const {
  std::string format = "gptq";
  std::string newer = "gptq";
  RETURN_IF_ERROR(keys_.String("checkpoint_format", &format));
  RETURN_IF_ERROR(keys_.String("format", &newer));
  const char* key = keys_.Has("checkpoint_format") ? "checkpoint_format" : "format";
  if (!keys_.Has("checkpoint_format")) format = newer;
  if (keys_.Has("checkpoint_format") && keys_.Has("format") && format != newer) {
    return keys_.Error("format", "differs from checkpoint_format");
  }
  if (!OneOf(format, {"gptq", "gptq_v2"})) {
    return keys_.Error(
        key, absl::StrCat("is ", QuoteName(format), "; only gptq and gptq_v2 are supported"));
  }
  *zero_offset = format == "gptq" ? 1 : 0;
  RETURN_IF_ERROR(keys_.Neutral("is_marlin_format", {Json(false)}));
  std::string pack = "int32";
  RETURN_IF_ERROR(keys_.String("pack_dtype", &pack));
  if (!OneOf(pack, {"int32", "torch.int32"})) {
    return keys_.Error("pack_dtype", "is not int32, which alone is supported");
  }
  return absl::OkStatus();
}

// What `dynamic` may override too; `scheme` comes with what holds without the keys.
absl::Status QuantizationReader::ReadGptqScheme(const HfKeys& keys, QuantScheme* scheme) const {
  int64_t bits = scheme->type == WeightType::kGptq8 ? 8 : 4;
  RETURN_IF_ERROR(keys.Int("bits", &bits));
  if (bits != 4 && bits != 8) {
    return keys.Error("bits", absl::StrCat("is ", bits, "; only 4 and 8 are supported"));
  }
  scheme->type = bits == 8 ? WeightType::kGptq8 : WeightType::kGptq4;
  RETURN_IF_ERROR(keys.Int("group_size", &scheme->group_size));
  RETURN_IF_ERROR(CheckGroupSize(keys, "group_size", scheme->group_size));
  RETURN_IF_ERROR(keys.Bool("sym", &scheme->symmetric));
  return keys.Bool("desc_act", &scheme->act_order);
}

absl::Status QuantizationReader::ReadGptq() {
  out_.method_ = QuantMethod::kGptq;
  QuantScheme scheme;
  scheme.group_size = 128;
  RETURN_IF_ERROR(ReadGptqFormat(&scheme.zero_offset));
  if (!keys_.Has("bits")) return keys_.Error("bits", "is missing");
  RETURN_IF_ERROR(ReadGptqScheme(keys_, &scheme));
  out_.schemes_.push_back(scheme);
  RETURN_IF_ERROR(ReadDynamic());
  return AddRule("bits", "", {Rule::How::kAll, {}, {}, 0});
}

// Patterns in the document's order: "-:" leaves a module dense, "+:" or nothing overrides.
absl::Status QuantizationReader::ReadDynamic() {
  const Json* dynamic = keys_.Find("dynamic");
  if (dynamic == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(Object(keys_, "dynamic", dynamic).status());
  for (const auto& [name, overrides] : dynamic->object()) {
    std::string_view pattern = name;
    const std::string_view mark = pattern.substr(0, 2);
    if (mark == "-:" || mark == "+:") pattern.remove_prefix(2);
    Rule rule;
    rule.how = Rule::How::kPattern;
    if (mark != "-:") {
      const HfKeys keys(overrides, out_.file_,
                        absl::StrCat("quantization_config.dynamic.", name, "."));
      if (!overrides.is_object())
        return keys_.Error("dynamic", "holds something else than objects");
      QuantScheme scheme = out_.schemes_.front();
      RETURN_IF_ERROR(ReadGptqScheme(keys, &scheme));
      for (const std::string& key : keys.Unread()) {
        // What steers the quantizer is over; what steers the layout we must know.
        if (OneOf(key, {"damp_percent", "damp_auto_increment", "mse", "static_groups",
                        "true_sequential", "act_group_aware", "lm_head"})) {
          continue;
        }
        return keys.Error(key, "is no override that is known here");
      }
      rule.scheme = static_cast<int>(out_.schemes_.size());
      out_.schemes_.push_back(scheme);
    }
    RETURN_IF_ERROR(AddRule("dynamic", pattern, std::move(rule)));
  }
  return absl::OkStatus();
}

absl::Status QuantizationReader::ReadAwq() {
  out_.method_ = QuantMethod::kAwq;
  QuantScheme scheme;
  scheme.type = WeightType::kAwq4;
  scheme.symmetric = false;
  scheme.group_size = 128;
  int64_t bits = 4;
  RETURN_IF_ERROR(keys_.Int("w_bit", &bits));
  RETURN_IF_ERROR(keys_.Int("bits", &bits));
  if (bits != 4) return keys_.Error("bits", absl::StrCat("is ", bits, "; AWQ is supported at 4"));
  RETURN_IF_ERROR(keys_.Int("q_group_size", &scheme.group_size));
  RETURN_IF_ERROR(keys_.Int("group_size", &scheme.group_size));
  RETURN_IF_ERROR(CheckGroupSize(keys_, "group_size", scheme.group_size));
  std::string version = "gemm";
  RETURN_IF_ERROR(keys_.String("version", &version));
  std::transform(version.begin(), version.end(), version.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (version != "gemm") {
    return keys_.Error("version", absl::StrCat("is ", QuoteName(version), "; only gemm"));
  }
  std::string backend = "autoawq";
  RETURN_IF_ERROR(keys_.String("backend", &backend));
  if (!OneOf(backend, {"autoawq", "auto"})) {
    return keys_.Error("backend", absl::StrCat("is ", QuoteName(backend), "; only autoawq"));
  }
  RETURN_IF_ERROR(keys_.Neutral("zero_point", {Json(true)}));
  out_.schemes_.push_back(scheme);
  RETURN_IF_ERROR(ReadIgnore("modules_to_not_convert", Rule::How::kSubstring));
  return AddRule("bits", "", {Rule::How::kAll, {}, {}, 0});
}

// A list of names or, with "re:", patterns that stay dense.
absl::Status QuantizationReader::ReadIgnore(const char* key, Rule::How plain) {
  const Json* list = keys_.Find(key);
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return keys_.Error(key, "is no list");
  for (const Json& entry : list->array()) {
    if (!entry.is_string()) return keys_.Error(key, "holds something that is no string");
    std::string_view text = entry.string_value();
    Rule rule;
    rule.how = plain;
    if (plain == Rule::How::kName && text.substr(0, 3) == "re:") {
      rule.how = Rule::How::kPattern;
      text.remove_prefix(3);
    }
    RETURN_IF_ERROR(AddRule(key, text, std::move(rule)));
  }
  return absl::OkStatus();
}

absl::Status QuantizationReader::ReadWeights(const HfKeys& keys, QuantScheme* scheme) const {
  int64_t bits = 0;
  RETURN_IF_ERROR(keys.Int("num_bits", &bits));
  RETURN_IF_ERROR(keys.Neutral("type", {Json("int")}));
  RETURN_IF_ERROR(keys.Neutral("dynamic", {Json(false)}));
  RETURN_IF_ERROR(keys.Bool("symmetric", &scheme->symmetric));
  std::string strategy;
  RETURN_IF_ERROR(keys.String("strategy", &strategy));
  int64_t group_size = -1;
  RETURN_IF_ERROR(keys.Int("group_size", &group_size));
  if (strategy.empty()) strategy = group_size > 0 ? "group" : "channel";
  if (strategy == "group") {
    if (group_size < 1) return keys.Error("group_size", "is missing for strategy 'group'");
  } else if (strategy == "channel") {
    group_size = -1;
  } else {
    return keys.Error("strategy", absl::StrCat("is ", QuoteName(strategy),
                                               "; only group and channel are supported"));
  }
  RETURN_IF_ERROR(CheckGroupSize(keys, "group_size", group_size));
  scheme->group_size = group_size;
  const Json* order = keys.Find("actorder");
  if (order != nullptr) {
    // The older booleans; "dynamic" and "static" are the newer names of the two kinds. "weight"
    // orders only the quantizer's work: the tensors stay as they are.
    const std::string_view kind = order->is_string() ? std::string_view(order->string_value()) : "";
    const bool grouped = *order == Json(true) || kind == "group" || kind == "dynamic";
    if (!grouped && *order != Json(false) && kind != "weight" && kind != "static") {
      return keys.Error("actorder", "is none of group, weight, static and dynamic");
    }
    scheme->act_order = grouped;
  }
  if (bits != 4 && bits != 8) {
    return keys.Error("num_bits", absl::StrCat("is ", bits, "; only 4 and 8 are supported"));
  }
  scheme->type = bits == 4 ? WeightType::kPacked4 : WeightType::kPacked8;
  return absl::OkStatus();
}

// W8A8: int8 for each token, its scale found as it comes.
absl::Status QuantizationReader::CheckActivations(const HfKeys& keys) const {
  RETURN_IF_ERROR(keys.Neutral("num_bits", {Json(8)}));
  RETURN_IF_ERROR(keys.Neutral("type", {Json("int")}));
  RETURN_IF_ERROR(keys.Neutral("symmetric", {Json(true)}));
  RETURN_IF_ERROR(keys.Neutral("dynamic", {Json(true)}));
  RETURN_IF_ERROR(keys.Neutral("strategy", {Json("token")}));
  if (!keys.Has("dynamic")) return keys.Error("dynamic", "is missing; only true is supported");
  if (!keys.Has("strategy")) return keys.Error("strategy", "is missing; only token is supported");
  return absl::OkStatus();
}

absl::Status QuantizationReader::ReadGroup(const std::string& name, const Json& group,
                                           const std::string& whole_format) {
  const std::string prefix = absl::StrCat("quantization_config.config_groups.", name, ".");
  const HfKeys keys(group, out_.file_, prefix);
  if (!group.is_object()) return keys_.Error("config_groups", "holds something else than objects");
  std::string format = whole_format;
  RETURN_IF_ERROR(keys.String("format", &format));
  RETURN_IF_ERROR(keys.Neutral("output_activations", {}));
  const Json* weights = keys.Find("weights");
  RETURN_IF_ERROR(Object(keys, "weights", weights).status());
  QuantScheme scheme;
  const HfKeys weight_keys(*weights, out_.file_, prefix + "weights.");
  RETURN_IF_ERROR(ReadWeights(weight_keys, &scheme));
  const Json* activations = keys.Find("input_activations");
  if (format == "int-quantized") {
    if (activations == nullptr) {
      return keys.Error("input_activations", "is missing; int-quantized is supported as W8A8");
    }
    RETURN_IF_ERROR(Object(keys, "input_activations", activations).status());
    RETURN_IF_ERROR(
        CheckActivations(HfKeys(*activations, out_.file_, prefix + "input_activations.")));
    if (scheme.type != WeightType::kPacked8 || scheme.group_size != -1 || !scheme.symmetric ||
        scheme.act_order) {
      return keys.Error("weights", "is not 8-bit symmetric per channel, as W8A8 must be");
    }
    scheme.type = WeightType::kInt8Channel;
  } else if (format == "pack-quantized") {
    RETURN_IF_ERROR(keys.Neutral("input_activations", {}));
  } else {
    return keys_.Error("format", absl::StrCat("is ", QuoteName(format),
                                              "; only pack-quantized and int-quantized"));
  }
  const int index = static_cast<int>(out_.schemes_.size());
  out_.schemes_.push_back(scheme);
  const Json* targets = keys.Find("targets");
  if (targets == nullptr || !targets->is_array()) return keys.Error("targets", "is no list");
  for (const Json& target : targets->array()) {
    if (!target.is_string()) return keys.Error("targets", "holds something that is no string");
    std::string_view text = target.string_value();
    Rule rule;
    rule.scheme = index;
    rule.how = text == "Linear" ? Rule::How::kAll : Rule::How::kName;
    if (text.substr(0, 3) == "re:") {
      rule.how = Rule::How::kPattern;
      text.remove_prefix(3);
    }
    RETURN_IF_ERROR(AddRule("config_groups", text, std::move(rule)));
  }
  return absl::OkStatus();
}

absl::Status QuantizationReader::ReadCompressed() {
  out_.method_ = QuantMethod::kCompressedTensors;
  std::string format = "pack-quantized";
  RETURN_IF_ERROR(keys_.String("format", &format));
  RETURN_IF_ERROR(keys_.Neutral("kv_cache_scheme", {}));
  RETURN_IF_ERROR(keys_.Neutral("quantization_status", {Json("compressed"), Json("frozen")}));
  RETURN_IF_ERROR(keys_.Neutral("transform_config", {Json(JsonObject{})}));
  if (const Json* sparsity = keys_.Find("sparsity_config");
      sparsity != nullptr && *sparsity != Json(JsonObject{})) {
    const HfKeys keys(*sparsity, out_.file_, "quantization_config.sparsity_config.");
    RETURN_IF_ERROR(Object(keys_, "sparsity_config", sparsity).status());
    RETURN_IF_ERROR(keys.Neutral("format", {Json("dense")}));
  }
  RETURN_IF_ERROR(ReadIgnore("ignore", Rule::How::kName));
  const Json* groups = keys_.Find("config_groups");
  RETURN_IF_ERROR(Object(keys_, "config_groups", groups).status());
  if (groups->object().empty()) return keys_.Error("config_groups", "is empty");
  for (const auto& [name, group] : groups->object()) {
    RETURN_IF_ERROR(ReadGroup(name, group, format));
  }
  // A rule for one module comes before a rule for all, whatever the order of the groups: the
  // library looks for names first, then patterns, then classes.
  std::stable_sort(out_.rules_.begin(), out_.rules_.end(), [](const Rule& a, const Rule& b) {
    const auto rank = [](const Rule& rule) {
      if (rule.scheme < 0) return 0;
      return rule.how == Rule::How::kName ? 1 : rule.how == Rule::How::kPattern ? 2 : 3;
    };
    return rank(a) < rank(b);
  });
  return absl::OkStatus();
}

absl::StatusOr<HfQuantization> QuantizationReader::Run() {
  std::string method;
  RETURN_IF_ERROR(keys_.String("method", &method));
  RETURN_IF_ERROR(keys_.String("quant_method", &method));
  if (method == "gptq") {
    RETURN_IF_ERROR(ReadGptq());
  } else if (method == "awq") {
    RETURN_IF_ERROR(ReadAwq());
  } else if (method == "compressed-tensors") {
    RETURN_IF_ERROR(ReadCompressed());
  } else {
    return keys_.Error("quant_method", absl::StrCat("is ", QuoteName(method),
                                                    "; gptq, awq and compressed-tensors are "
                                                    "supported"));
  }
  return std::move(out_);
}

absl::StatusOr<HfQuantization> HfQuantization::Read(const Json& config, const std::string& file) {
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": 'quantization_config' is no object"));
  }
  return QuantizationReader(config, file).Run();
}

absl::StatusOr<bool> HfQuantization::Selects(const Rule& rule, std::string_view module) const {
  switch (rule.how) {
    case Rule::How::kAll:
      return true;
    case Rule::How::kName:
      return module == rule.text;
    case Rule::How::kSubstring:
      return module.find(rule.text) != std::string_view::npos;
    case Rule::How::kPattern:
      return rule.pattern.front().Matches(module);
  }
  return false;
}

absl::StatusOr<const QuantScheme*> HfQuantization::SchemeOf(std::string_view module) const {
  for (const Rule& rule : rules_) {
    const absl::StatusOr<bool> selects = Selects(rule, module);
    if (!selects.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_, ": ", std::string(selects.status().message())));
    }
    if (*selects) {
      return rule.scheme < 0 ? nullptr : &schemes_[static_cast<size_t>(rule.scheme)];
    }
  }
  return nullptr;
}

std::string SchemeName(const QuantScheme& scheme) {
  const bool wide = scheme.type == WeightType::kGptq8 || scheme.type == WeightType::kPacked8;
  if (scheme.type == WeightType::kInt8Channel) return "W8A8";
  std::string out = wide ? "8-bit" : "4-bit";
  if (scheme.group_size > 0) {
    absl::StrAppend(&out, " g", scheme.group_size);
  } else {
    absl::StrAppend(&out, " channel");
  }
  if (!scheme.symmetric) absl::StrAppend(&out, " asymmetric");
  if (scheme.act_order) absl::StrAppend(&out, " act-order");
  return out;
}

std::string HfQuantization::Name() const {
  const char* const names[] = {"GPTQ ", "AWQ ", "compressed-tensors "};
  return absl::StrCat(names[static_cast<int>(method_)], SchemeName(schemes_.front()));
}

}  // namespace millrace::model
