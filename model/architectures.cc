#include "model/architectures.h"

#include "absl/strings/str_cat.h"

namespace millrace::model {
namespace {

constexpr Architecture kArchitectures[] = {
    {"llama", &CheckLlama, &MakeLlama, &LlamaWorkspaceFloats},
};

}  // namespace

const Architecture* FindArchitecture(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

std::string ArchitectureNames() {
  std::string out;
  for (const Architecture& architecture : kArchitectures) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", std::string(architecture.name));
  }
  return out;
}

}  // namespace millrace::model
