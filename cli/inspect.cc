#include "cli/inspect.h"

#include <algorithm>
#include <iostream>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "cli/model_text.h"
#include "cli/node.h"

namespace millrace::cli {
namespace {

int Report(const absl::Status& status) {
  std::cerr << "millrace: " << status.message() << "\n";
  return 1;
}

Json PlanJson(const model::MemoryPlan& plan) {
  Json json = JsonObject{};
  json.Add("weights_bytes", static_cast<uint64_t>(plan.weights));
  json.Add("weights_file_bytes", static_cast<uint64_t>(plan.weight_files));
  json.Add("activations_bytes", static_cast<uint64_t>(plan.activations));
  json.Add("overhead_bytes", static_cast<uint64_t>(plan.overhead));
  json.Add("kv_bytes", static_cast<uint64_t>(plan.kv));
  json.Add("total_bytes", static_cast<uint64_t>(plan.total()));
  JsonArray groups;
  for (const model::KvGroupPlan& group : plan.kv_groups) {
    Json& one = groups.emplace_back(JsonObject{});
    one.Add("layers", group.group.layout.layers);
    one.Add("window", group.group.window);
    one.Add("block_tokens", group.group.layout.block_tokens);
    one.Add("blocks", group.blocks);
    one.Add("blocks_per_sequence_max", group.per_sequence);
    one.Add("bytes", static_cast<uint64_t>(group.bytes));
  }
  json.Add("kv_groups", std::move(groups));
  json.Add("kv_reference_len", plan.kv_reference_len);
  json.Add("max_model_len", plan.max_model_len);
  json.Add("max_num_seqs", plan.max_num_seqs);
  json.Add("longest_model_len", plan.longest_model_len);
  json.Add("fits", plan.problem.empty());
  json.Add("problem", plan.problem);
  JsonArray remedies;
  for (const std::string& remedy : plan.remedies) remedies.emplace_back(remedy);
  json.Add("remedies", std::move(remedies));
  return json;
}

// "GPTQ4 g128 act-order": the type, and what its side tensors say.
std::string FormatOf(const kernels::RawMatrix& matrix) {
  std::string out = kernels::WeightTypeName(matrix.type);
  const kernels::RawGroups* groups = matrix.groups;
  if (groups == nullptr || matrix.type == kernels::WeightType::kInt8Channel) return out;
  if (groups->group_size > 0) {
    absl::StrAppend(&out, " g", groups->group_size);
  } else {
    absl::StrAppend(&out, " channel");
  }
  if (!groups->symmetric) absl::StrAppend(&out, " asymmetric");
  if (groups->g_idx != nullptr) absl::StrAppend(&out, " act-order");
  return out;
}

// Bytes of the matrix in files, side tensors included; of a part of fused tensors its share.
double BytesOf(const kernels::RawMatrix& matrix) {
  double bytes = 0;
  model::ForEachFilePart(matrix, [&bytes](std::span<const std::byte> part) {
    bytes += static_cast<double>(part.size());
  });
  const kernels::RawGroups* groups = matrix.groups;
  if (groups == nullptr || groups->file_rows == 0) return bytes;
  return bytes * static_cast<double>(matrix.rows) / static_cast<double>(groups->file_rows);
}

double ValuesOf(const kernels::RawMatrix& matrix) {
  return static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
}

// The tensors that have one role in a layer, one format and one shape, as one line.
struct TensorGroup {
  std::string role;
  std::string format;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t count = 0;
  double bytes = 0;
  double values = 0;
  double BitsPerWeight() const { return values > 0 ? bytes * 8 / values : 0; }
};

// "layers.7.q" -> "q".
std::string RoleOf(const std::string& name) {
  return name.rfind("layers.", 0) == 0 ? name.substr(name.rfind('.') + 1) : name;
}

// In the order of the roles' names; the last element is the sum of all.
std::vector<TensorGroup> GroupTensors(const model::ModelDescription& description) {
  std::map<std::string, TensorGroup> groups;
  TensorGroup all;
  all.role = "all";
  for (const auto& [name, tensor] : description.tensors) {
    const kernels::RawMatrix& matrix = tensor.matrix;
    const std::string format = FormatOf(matrix);
    TensorGroup& group =
        groups[absl::StrFormat("%s %s %d %d", RoleOf(name), format, matrix.rows, matrix.cols)];
    group.role = RoleOf(name);
    group.format = format;
    group.rows = matrix.rows;
    group.cols = matrix.cols;
    for (TensorGroup* sum : {&group, &all}) {
      ++sum->count;
      sum->bytes += BytesOf(matrix);
      sum->values += ValuesOf(matrix);
    }
  }
  std::vector<TensorGroup> out;
  for (auto& item : groups) out.push_back(std::move(item.second));
  out.push_back(all);
  return out;
}

const char* KindName(text::TokenKind kind) {
  switch (kind) {
    case text::TokenKind::kUnknown:
      return "unknown";
    case text::TokenKind::kControl:
      return "control";
    case text::TokenKind::kUserDefined:
      return "user-defined";
    default:
      return "normal";
  }
}

// Ids that a text ends or begins with, and all that are no plain text.
Json TokenJson(const text::TokenizerSpec& spec, TokenId id) {
  if (id < 0) return Json();
  Json json = JsonObject{};
  json.Add("id", static_cast<int64_t>(id));
  const bool known = static_cast<size_t>(id) < spec.tokens.size();
  json.Add("text", known ? model::QuoteName(spec.tokens[static_cast<size_t>(id)]) : std::string());
  if (known) json.Add("kind", KindName(spec.kinds[static_cast<size_t>(id)]));
  return json;
}

std::vector<TokenId> SpecialTokens(const text::TokenizerSpec& spec) {
  std::vector<TokenId> out;
  for (size_t i = 0; i < spec.kinds.size(); ++i) {
    const text::TokenKind kind = spec.kinds[i];
    if (kind == text::TokenKind::kControl || kind == text::TokenKind::kUnknown) {
      out.push_back(static_cast<TokenId>(i));
    }
  }
  return out;
}

Json TextJson(const ModelText& text) {
  Json json = JsonObject{};
  json.Add("model", text.spec.model);
  json.Add("pre_tokenizer", text.spec.pre_tokenizer);
  json.Add("tokens", static_cast<uint64_t>(text.spec.tokens.size()));
  json.Add("bos", TokenJson(text.spec, text.spec.bos));
  json.Add("eos", TokenJson(text.spec, text.spec.eos));
  json.Add("unknown", TokenJson(text.spec, text.spec.unknown));
  JsonArray ends;
  for (const TokenId id : text.end_tokens) ends.push_back(TokenJson(text.spec, id));
  json.Add("end_tokens", std::move(ends));
  JsonArray special;
  for (const TokenId id : SpecialTokens(text.spec)) special.push_back(TokenJson(text.spec, id));
  json.Add("special_tokens", std::move(special));
  json.Add("chat_template", text.chat_template.has_value());
  return json;
}

// What generation_config.json says of sampling, as it says it.
Json SamplingJson(const text::GenerationConfig& config) {
  Json json = JsonObject{};
  if (config.do_sample) json.Add("do_sample", *config.do_sample);
  const std::pair<const char*, const std::optional<double>*> numbers[] = {
      {"temperature", &config.temperature},
      {"top_p", &config.top_p},
      {"min_p", &config.min_p},
      {"repetition_penalty", &config.repetition_penalty}};
  for (const auto& number : numbers) {
    if (*number.second) json.Add(number.first, **number.second);
  }
  if (config.top_k) json.Add("top_k", *config.top_k);
  if (config.max_new_tokens) json.Add("max_new_tokens", *config.max_new_tokens);
  return json;
}

Json InspectJson(const model::ModelDescription& description, const ModelText& text) {
  const model::ModelConfig& c = description.config;
  const std::vector<TensorGroup> groups = GroupTensors(description);
  Json json = JsonObject{};
  json.Add("architecture", c.architecture);
  json.Add("format", description.format);
  for (const auto& [name, value] : std::vector<std::pair<const char*, int64_t>>{
           {"layers", c.layers},
           {"hidden", c.hidden},
           {"heads", c.heads},
           {"kv_heads", c.kv_heads},
           {"head_dim", c.head_dim},
           {"feed_forward", c.feed_forward},
           {"vocab_size", c.vocab_size},
           {"context_length", c.context_length},
           {"window", c.window},
           {"parameters", static_cast<int64_t>(groups.back().values)},
           {"file_bytes", static_cast<int64_t>(model::FileBytes(description))}}) {
    json.Add(name, value);
  }
  json.Add("tied_embeddings", c.tied_embeddings);
  json.Add("bits_per_weight", groups.back().BitsPerWeight());
  json.Add("tokenizer", TextJson(text));
  json.Add("generation_config", SamplingJson(text.generation));
  JsonArray rows;
  for (size_t i = 0; i + 1 < groups.size(); ++i) {
    const TensorGroup& group = groups[i];
    Json row = JsonObject{};
    row.Add("role", group.role);
    row.Add("format", group.format);
    row.Add("count", group.count);
    row.Add("rows", group.rows);
    row.Add("cols", group.cols);
    row.Add("bytes", static_cast<uint64_t>(group.bytes));
    row.Add("bits_per_weight", group.BitsPerWeight());
    rows.push_back(std::move(row));
  }
  json.Add("groups", std::move(rows));
  JsonArray tensors;
  for (const auto& [name, tensor] : description.tensors) {
    Json row = JsonObject{};
    row.Add("name", tensor.file_name);
    row.Add("neutral_name", name);
    row.Add("format", FormatOf(tensor.matrix));
    row.Add("rows", tensor.matrix.rows);
    row.Add("cols", tensor.matrix.cols);
    row.Add("bytes", static_cast<uint64_t>(BytesOf(tensor.matrix)));
    tensors.push_back(std::move(row));
  }
  json.Add("tensors", std::move(tensors));
  JsonArray ignored;
  for (const std::string& key : description.ignored) ignored.emplace_back(key);
  json.Add("ignored_keys", std::move(ignored));
  return json;
}

// "2 '<|im_end|>'".
std::string ShowToken(const text::TokenizerSpec& spec, TokenId id) {
  if (id < 0) return "none";
  if (static_cast<size_t>(id) >= spec.tokens.size()) return absl::StrCat(id);
  return absl::StrCat(id, " ", model::QuoteName(spec.tokens[static_cast<size_t>(id)]));
}

void PrintInspection(const model::ModelDescription& description, const ModelText& text) {
  const model::ModelConfig& c = description.config;
  const text::TokenizerSpec& spec = text.spec;
  const std::vector<TensorGroup> groups = GroupTensors(description);
  const TensorGroup& all = groups.back();
  std::string ends;
  for (const TokenId id : text.end_tokens) {
    absl::StrAppend(&ends, ends.empty() ? "" : ", ", ShowToken(spec, id));
  }
  std::cout << absl::StrFormat(
      "architecture  %s, %s\nshape         %d layers, %d wide, %d heads over %d KV heads of %d, "
      "feed-forward %d\ncontext       %d%s\nweights       %.1f M in %s, %.2f bits each\n",
      c.architecture, description.format, c.layers, c.hidden, c.heads, c.kv_heads, c.head_dim,
      c.feed_forward, c.context_length,
      c.window > 0 ? absl::StrCat(", local layers see ", c.window) : "", all.values / 1e6,
      model::HumanBytes(model::FileBytes(description)), all.BitsPerWeight());
  std::cout << absl::StrFormat("tokenizer     %s%s%s, %d tokens of %d; %d special\n", spec.model,
                               spec.pre_tokenizer.empty() ? "" : " ", spec.pre_tokenizer,
                               spec.tokens.size(), c.vocab_size, SpecialTokens(spec).size());
  std::cout << absl::StrFormat("tokens        begin %s; end %s; unknown %s\nchat template %s\n",
                               ShowToken(spec, spec.bos), ends.empty() ? "none" : ends,
                               ShowToken(spec, spec.unknown),
                               text.chat_template.has_value() ? "yes" : "no");
  std::string sampling;
  const Json said = SamplingJson(text.generation);
  for (const JsonMember& member : said.object()) {
    absl::StrAppend(&sampling, sampling.empty() ? "" : ", ", member.first, " ",
                    member.second.Dump());
  }
  std::cout << absl::StrFormat("sampling      %s\n", sampling.empty() ? "neutral" : sampling);
  std::cout << "tensors\n";
  for (size_t i = 0; i + 1 < groups.size(); ++i) {
    const TensorGroup& group = groups[i];
    std::cout << absl::StrFormat("  %-14s %4d x [%d, %d]  %s  %.2f bits  %s\n", group.role,
                                 group.count, group.rows, group.cols, group.format,
                                 group.BitsPerWeight(),
                                 model::HumanBytes(static_cast<size_t>(group.bytes)));
  }
  if (description.ignored.empty()) return;
  std::cout << "keys of the configuration that were not looked at\n ";
  for (const std::string& key : description.ignored) {
    const std::string quoted = model::QuoteName(key);
    std::cout << " " << quoted;
  }
  std::cout << "\n";
}

}  // namespace

int RunPlan(const ModelOptions& options, bool json) {
  const auto file = OpenModel(options);
  if (!file.ok()) return Report(file.status());
  const auto plan = PlanNode(**file, options);
  if (!plan.ok()) return Report(plan.status());
  std::cout << (json ? PlanJson(*plan).Dump() + "\n" : plan->Table());
  return plan->problem.empty() ? 0 : 1;
}

int RunInspect(const std::string& path, bool json) {
  const auto file = model::ModelFile::Open(path);
  if (!file.ok()) return Report(file.status());
  const auto text = ReadModelText(**file);
  if (!text.ok()) return Report(text.status());
  if (json) {
    std::cout << InspectJson((*file)->description(), *text).Dump() << "\n";
  } else {
    PrintInspection((*file)->description(), *text);
  }
  return 0;
}

}  // namespace millrace::cli
