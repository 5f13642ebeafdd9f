#pragma once
// A tokenizer from the files of a Hugging Face directory. Reading them from disk is the caller's:
// here come their bytes. Anything in them that would change ids and is not known here is refused by
// file and field ("dir/tokenizer.json: normalizer.normalizers[1].type: 'Nmt' is not supported").

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/generation_config.h"
#include "text/tokenizer_spec.h"

namespace millrace::text {

// The largest published tokenizer.json are 33 MB (Gemma: 262,144 tokens, 580,000 merges).
JsonLimits TokenizerJsonLimits();

// tokenizer.json alone. bos, eos and pad are not in that file.
absl::StatusOr<TokenizerSpec> TokenizerSpecFromJson(std::string_view json,
                                                    const std::string& file_name);

// The texts of a directory. `directory` is for messages only. nullopt: there is no such file.
struct HfTextFiles {
  std::string directory;
  std::string_view tokenizer_json;
  std::optional<std::string_view> tokenizer_config;
  std::optional<std::string_view> special_tokens_map;
  std::optional<std::string_view> generation_config;
  std::optional<std::string_view> chat_template;  // chat_template.jinja
};

struct HfText {
  TokenizerSpec spec;
  // The template named "default" or the only one; chat_template.jinja goes before the config's.
  std::optional<std::string> chat_template;
  // The further ones of a config that lists several, by name ("tool_use").
  std::vector<std::pair<std::string, std::string>> named_templates;
  TokenId pad = -1;
  // end_tokens: those of generation_config.json and the tokenizer's eos.
  GenerationConfig generation;
};

absl::StatusOr<HfText> ReadHfText(const HfTextFiles& files);

}  // namespace millrace::text
