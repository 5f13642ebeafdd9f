#pragma once
// A checkpoint's config.json turned into the neutral configuration. Keys are those of the
// transformers library, old style (rope_theta, rope_scaling) and new (rope_parameters); a key that
// is absent means what that library's class for the family makes of it.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/config.h"

namespace millrace::model {

struct HfConfig {
  ModelConfig config;  // not yet completed and validated: the tensors have their say
  std::string model_type;
  std::vector<std::string> ignored;  // keys that were not looked at; `millrace inspect` lists them
};

// `root` is the whole config.json, `file` its path for messages. A key that would change the
// answers and is not implemented is refused by name.
absl::StatusOr<HfConfig> ReadHfConfig(const Json& root, const std::string& file);

// "eos_token_id": one id or a list of them; each must fit 31 bits.
absl::Status ReadEndTokens(const Json& root, const std::string& file, std::vector<int32_t>* out);

}  // namespace millrace::model
