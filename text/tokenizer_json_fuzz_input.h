#pragma once
// An input of tokenizer_json_fuzz as the files of a directory: tokenizer.json, then after a NUL
// each: tokenizer_config.json, special_tokens_map.json, generation_config.json.

#include <cstddef>
#include <optional>
#include <string_view>

#include "text/tokenizer_json.h"

namespace millrace::text {

// The files are views of `input`.
inline HfTextFiles SplitFuzzInput(std::string_view input) {
  HfTextFiles files;
  std::optional<std::string_view>* const rest[] = {
      &files.tokenizer_config, &files.special_tokens_map, &files.generation_config};
  size_t cut = input.find('\0');
  files.tokenizer_json = input.substr(0, cut);
  for (size_t i = 0; i < 3 && cut != std::string_view::npos; ++i) {
    input.remove_prefix(cut + 1);
    cut = i < 2 ? input.find('\0') : std::string_view::npos;
    *rest[i] = input.substr(0, cut);
  }
  return files;
}

}  // namespace millrace::text
