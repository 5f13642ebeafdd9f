#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "model/gguf.h"
#include "model/hf_quantization.h"

namespace millrace::model {
namespace {

constexpr size_t kMaxPatternBytes = 1024;
// Steps of one match: a name of some 60 bytes against any sane pattern takes a few hundred.
constexpr uint32_t kMatchLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 1024;

}  // namespace

struct ModulePattern::Compiled {
  ~Compiled() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
  std::string text;
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_match_data* data = nullptr;
};

ModulePattern::ModulePattern() : compiled_(std::make_unique<Compiled>()) {}
ModulePattern::~ModulePattern() = default;
ModulePattern::ModulePattern(ModulePattern&&) noexcept = default;
ModulePattern& ModulePattern::operator=(ModulePattern&&) noexcept = default;

absl::StatusOr<ModulePattern> ModulePattern::Compile(std::string_view pattern) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pattern of ", pattern.size(), " bytes; from 1 to ", kMaxPatternBytes));
  }
  ModulePattern out;
  out.compiled_->text = std::string(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  out.compiled_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (out.compiled_->code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern ", QuoteName(pattern), " cannot be compiled (at byte ", offset, ")"));
  }
  out.compiled_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(out.compiled_->context, kMatchLimit);
  pcre2_set_heap_limit(out.compiled_->context, kHeapLimitKib);
  out.compiled_->data = pcre2_match_data_create(1, nullptr);
  return out;
}

absl::StatusOr<bool> ModulePattern::Matches(std::string_view name) const {
  const int found = pcre2_match(compiled_->code, reinterpret_cast<PCRE2_SPTR>(name.data()),
                                name.size(), 0, 0, compiled_->data, compiled_->context);
  if (found >= 0) return true;
  if (found == PCRE2_ERROR_NOMATCH) return false;
  return absl::InvalidArgumentError(
      absl::StrCat("pattern ", QuoteName(compiled_->text), " takes too long to match"));
}

}  // namespace millrace::model
