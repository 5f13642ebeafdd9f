#include "model/complete_description.h"

#include "absl/strings/str_cat.h"
#include "model/architectures.h"
#include "model/gguf.h"

namespace millrace::model {

absl::Status CompleteDescription(const std::string& config_file, ModelDescription* description) {
  ModelConfig& config = description->config;
  const Architecture* architecture = FindArchitecture(config.architecture);
  const auto error = [&config_file](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(config_file, ": ", why));
  };
  if (architecture == nullptr) {
    return error(absl::StrCat("architecture ", QuoteName(config.architecture),
                              " is not supported (", ArchitectureNames(), ")"));
  }
  if (absl::Status complete = architecture->complete(&config); !complete.ok()) {
    return error(std::string(complete.message()));
  }
  if (absl::Status valid = ValidateConfig(config); !valid.ok()) {
    return error(std::string(valid.message()));
  }
  return architecture->check(*description);
}

}  // namespace millrace::model
