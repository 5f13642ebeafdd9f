#pragma once
// The last step of every reader, whatever the format.

#include <string>

#include "absl/status/status.h"
#include "model/weights.h"

namespace millrace::model {

// Lets the family add what only it knows, checks the configuration against the list of rules and
// the tensors against the family's table of shapes. Errors are one line that names
// `config_file`, where the configuration comes from, or the tensor and its file.
absl::Status CompleteDescription(const std::string& config_file, ModelDescription* description);

}  // namespace millrace::model
