#include "cli/model_text.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/gguf_text.h"
#include "model/hf_checkpoint.h"
#include "text/tokenizer_json.h"

namespace millrace::cli {
namespace {

// One of the directory's files; nullptr when it is not there.
absl::StatusOr<std::unique_ptr<model::MappedFile>> MapIfThere(const model::HfDirectory& directory,
                                                              const char* name) {
  if (!directory.Has(name)) return std::unique_ptr<model::MappedFile>();
  return directory.Map(name);
}

std::string_view TextOf(const model::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void AddTokens(const std::vector<TokenId>& from, std::vector<TokenId>& to) {
  for (const TokenId id : from) {
    if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  }
}

absl::StatusOr<ModelText> ReadDirectory(const model::HfCheckpoint& checkpoint) {
  const model::HfDirectory& directory = checkpoint.directory();
  ASSIGN_OR_RETURN(const auto tokenizer, directory.Map("tokenizer.json"));
  text::HfTextFiles files;
  files.directory = checkpoint.source().path;
  files.tokenizer_json = TextOf(*tokenizer);
  struct Optional {
    const char* name;
    std::optional<std::string_view> text::HfTextFiles::*member;
  };
  const Optional optional[] = {
      {"tokenizer_config.json", &text::HfTextFiles::tokenizer_config},
      {"special_tokens_map.json", &text::HfTextFiles::special_tokens_map},
      {"generation_config.json", &text::HfTextFiles::generation_config},
      {"chat_template.jinja", &text::HfTextFiles::chat_template},
  };
  std::vector<std::unique_ptr<model::MappedFile>> mapped;
  for (const Optional& row : optional) {
    ASSIGN_OR_RETURN(auto file, MapIfThere(directory, row.name));
    if (file == nullptr) continue;
    files.*row.member = TextOf(*file);
    mapped.push_back(std::move(file));
  }
  ASSIGN_OR_RETURN(text::HfText read, text::ReadHfText(files));
  ModelText out;
  out.spec = std::move(read.spec);
  out.chat_template = std::move(read.chat_template);
  out.end_tokens = read.generation.end_tokens;
  out.generation = std::move(read.generation);
  return out;
}

absl::StatusOr<ModelText> ReadGguf(const model::GgufMetadata& metadata) {
  ModelText out;
  ASSIGN_OR_RETURN(out.spec, TokenizerSpecFromGguf(metadata));
  ASSIGN_OR_RETURN(out.chat_template, ChatTemplateFromGguf(metadata));
  ASSIGN_OR_RETURN(out.end_tokens, EndTokensFromGguf(metadata, out.spec));
  return out;
}

}  // namespace

absl::StatusOr<ModelText> ReadModelText(const model::ModelFile& file) {
  const model::ModelDescription& description = file.description();
  ASSIGN_OR_RETURN(ModelText out, file.checkpoint() != nullptr ? ReadDirectory(*file.checkpoint())
                                                               : ReadGguf(file.metadata()));
  AddTokens(description.config.end_tokens, out.end_tokens);
  const int64_t vocabulary = description.config.vocab_size;
  if (static_cast<int64_t>(out.spec.tokens.size()) > vocabulary) {
    return absl::InvalidArgumentError(absl::StrCat(description.source, ": the tokenizer has ",
                                                   out.spec.tokens.size(),
                                                   " tokens, the embedding ", vocabulary));
  }
  for (const TokenId id : out.end_tokens) {
    if (id >= 0 && id < vocabulary) continue;
    return absl::InvalidArgumentError(absl::StrCat(description.source, ": end token ", id,
                                                   " is outside the vocabulary of ", vocabulary));
  }
  return out;
}

}  // namespace millrace::cli
