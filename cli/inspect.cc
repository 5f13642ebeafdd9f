#include "cli/inspect.h"

#include <iostream>
#include <map>

#include "absl/strings/str_format.h"
#include "base/json.h"
#include "cli/gguf_text.h"
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
  json.Add("activations_bytes", static_cast<uint64_t>(plan.activations));
  json.Add("overhead_bytes", static_cast<uint64_t>(plan.overhead));
  json.Add("kv_bytes", static_cast<uint64_t>(plan.kv));
  json.Add("total_bytes", static_cast<uint64_t>(plan.total()));
  json.Add("kv_blocks", plan.kv_blocks);
  json.Add("kv_tokens", plan.kv_tokens);
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

// The tensors that have one type and one shape, as one line.
struct TensorGroup {
  int64_t count = 0;
  uint64_t bytes = 0;
  std::string example;
};

std::map<std::string, TensorGroup> GroupTensors(const model::ModelDescription& description) {
  std::map<std::string, TensorGroup> groups;
  for (const auto& [name, tensor] : description.tensors) {
    TensorGroup& group =
        groups[absl::StrFormat("%s [%d, %d]", kernels::WeightTypeName(tensor.matrix.type),
                               tensor.matrix.rows, tensor.matrix.cols)];
    if (group.count++ == 0) group.example = name;
    group.bytes += tensor.matrix.bytes;
  }
  return groups;
}

Json InspectJson(const model::ModelFile& file, const text::TokenizerSpec& spec) {
  const model::ModelConfig& c = file.description().config;
  Json json = JsonObject{};
  json.Add("architecture", c.architecture);
  json.Add("format", file.description().format);
  for (const auto& [name, value] :
       std::map<std::string, int64_t>{{"layers", c.layers},
                                      {"hidden", c.hidden},
                                      {"heads", c.heads},
                                      {"kv_heads", c.kv_heads},
                                      {"head_dim", c.head_dim},
                                      {"feed_forward", c.feed_forward},
                                      {"vocab_size", c.vocab_size},
                                      {"context_length", c.context_length}}) {
    json.Add(name, value);
  }
  Json tokenizer = JsonObject{};
  tokenizer.Add("pre_tokenizer", spec.pre_tokenizer);
  tokenizer.Add("bos", static_cast<int64_t>(spec.bos));
  tokenizer.Add("eos", static_cast<int64_t>(spec.eos));
  tokenizer.Add("chat_template", file.metadata().Has("tokenizer.chat_template"));
  json.Add("tokenizer", std::move(tokenizer));
  JsonArray tensors;
  for (const auto& [name, tensor] : file.description().tensors) {
    Json row = JsonObject{};
    row.Add("name", tensor.file_name);
    row.Add("type", kernels::WeightTypeName(tensor.matrix.type));
    row.Add("rows", tensor.matrix.rows);
    row.Add("cols", tensor.matrix.cols);
    row.Add("bytes", static_cast<uint64_t>(tensor.matrix.bytes));
    tensors.push_back(std::move(row));
  }
  json.Add("tensors", std::move(tensors));
  return json;
}

void PrintInspection(const model::ModelFile& file, const text::TokenizerSpec& spec) {
  const model::ModelConfig& c = file.description().config;
  std::cout << absl::StrFormat(
      "architecture  %s, %s\nshape         %d layers, %d wide, %d heads over %d KV heads of %d, "
      "feed-forward %d\nvocabulary    %d (%s), context %d\ntokens        bos %d, eos %d; chat "
      "template: %s\ntensors\n",
      c.architecture, file.description().format, c.layers, c.hidden, c.heads, c.kv_heads,
      c.head_dim, c.feed_forward, c.vocab_size, spec.pre_tokenizer, c.context_length, spec.bos,
      spec.eos, file.metadata().Has("tokenizer.chat_template") ? "yes" : "no");
  for (const auto& [kind, group] : GroupTensors(file.description())) {
    std::cout << absl::StrFormat("  %4d x %-22s %10s  as %s\n", group.count, kind,
                                 model::HumanBytes(group.bytes), group.example);
  }
}

}  // namespace

int RunPlan(const ModelOptions& options, bool json) {
  const auto file = model::ModelFile::Open(options.model);
  if (!file.ok()) return Report(file.status());
  const auto plan = PlanNode(**file, options);
  if (!plan.ok()) return Report(plan.status());
  std::cout << (json ? PlanJson(*plan).Dump() + "\n" : plan->Table());
  return plan->problem.empty() ? 0 : 1;
}

int RunInspect(const std::string& path, bool json) {
  const auto file = model::ModelFile::Open(path);
  if (!file.ok()) return Report(file.status());
  const auto spec = TokenizerSpecFromGguf((*file)->metadata());
  if (!spec.ok()) return Report(spec.status());
  if (json) {
    std::cout << InspectJson(**file, *spec).Dump() << "\n";
  } else {
    PrintInspection(**file, *spec);
  }
  return 0;
}

}  // namespace millrace::cli
