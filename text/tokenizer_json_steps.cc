#include "text/tokenizer_json_steps.h"

#include "base/status_macros.h"
#include "text/split_patterns.h"

namespace millrace::text {
namespace {

// Steps of steps are read in order; the JSON's own depth limit bounds the recursion. `read` takes a
// field that is no sequence and its type.
template <typename Read>
absl::Status ReadSteps(const JsonField& field, std::string_view list_name, const Read& read) {
  if (field.absent()) return absl::OkStatus();
  RETURN_IF_ERROR(field.IsObject());
  std::string type;  // apart from its assignment, which g++ 12 thinks may not happen
  ASSIGN_OR_RETURN(type, field["type"].String(""));
  if (type != "Sequence") return read(field, type);
  RETURN_IF_ERROR(field.HasOnly({"type", list_name}));
  const JsonField list = field[list_name];
  RETURN_IF_ERROR(list.IsArray());
  for (size_t i = 0; i < list.json().array().size(); ++i) {
    RETURN_IF_ERROR(ReadSteps(list.At(i), list_name, read));
  }
  return absl::OkStatus();
}

absl::Status UnknownType(const JsonField& field, const std::string& type) {
  return field["type"].Wrong(Quoted(type) + " is not supported");
}

// {"String": text}: the only pattern of the steps that change text.
absl::StatusOr<std::string> TextPattern(const JsonField& pattern) {
  RETURN_IF_ERROR(pattern.HasOnly({"String"}));
  ASSIGN_OR_RETURN(std::string text, pattern["String"].String(""));
  if (text.empty()) return pattern["String"].Wrong("is empty");
  return text;
}

absl::Status ReadNormalizerStep(const JsonField& field, const std::string& type,
                                TokenizerSpec& spec) {
  using Kind = NormalizerStep::Kind;
  NormalizerStep step;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD" || type == "Lowercase") {
    RETURN_IF_ERROR(field.HasOnly({"type"}));
    step.kind = type == "NFC"    ? Kind::kNfc
                : type == "NFD"  ? Kind::kNfd
                : type == "NFKC" ? Kind::kNfkc
                : type == "NFKD" ? Kind::kNfkd
                                 : Kind::kLowercase;
  } else if (type == "Prepend") {
    RETURN_IF_ERROR(field.HasOnly({"type", "prepend"}));
    step.kind = Kind::kPrepend;
    ASSIGN_OR_RETURN(step.to, field["prepend"].String(""));
  } else if (type == "Replace") {
    RETURN_IF_ERROR(field.HasOnly({"type", "pattern", "content"}));
    step.kind = Kind::kReplace;
    ASSIGN_OR_RETURN(step.from, TextPattern(field["pattern"]));
    ASSIGN_OR_RETURN(step.to, field["content"].String(""));
  } else if (type == "Strip") {
    RETURN_IF_ERROR(field.HasOnly({"type", "strip_left", "strip_right"}));
    step.kind = Kind::kStrip;
    ASSIGN_OR_RETURN(step.left, field["strip_left"].Bool(false));
    ASSIGN_OR_RETURN(step.right, field["strip_right"].Bool(false));
  } else {
    return UnknownType(field, type);
  }
  spec.normalizer.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ReadBehavior(const JsonField& field, SplitStep& step) {
  using Behavior = SplitStep::Behavior;
  ASSIGN_OR_RETURN(const std::string name, field.String(""));
  const std::pair<const char*, Behavior> names[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& entry : names) {
    if (name != entry.first) continue;
    step.behavior = entry.second;
    return absl::OkStatus();
  }
  return field.Wrong(Quoted(name) + " is not supported");
}

absl::StatusOr<SplitStep> ReadSplit(const JsonField& field) {
  RETURN_IF_ERROR(field.HasOnly({"type", "pattern", "behavior", "invert"}));
  SplitStep step;
  const JsonField pattern = field["pattern"];
  const JsonField regex = pattern["Regex"];
  if (regex.absent()) {
    step.kind = SplitStep::Kind::kText;
    ASSIGN_OR_RETURN(step.text, TextPattern(pattern));
  } else {
    RETURN_IF_ERROR(pattern.HasOnly({"Regex"}));
    ASSIGN_OR_RETURN(step.text, regex.String(""));
    if (PatternForPcre2(step.text).empty()) {
      return regex.Wrong("this regular expression is none of the known ones");
    }
  }
  RETURN_IF_ERROR(ReadBehavior(field["behavior"], step));
  ASSIGN_OR_RETURN(step.invert, field["invert"].Bool(false));
  return step;
}

// The older spelling is add_prefix_space.
absl::StatusOr<SplitStep::Prepend> ReadPrepend(const JsonField& field) {
  ASSIGN_OR_RETURN(const bool prefix, field["add_prefix_space"].Bool(true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   field["prepend_scheme"].String(prefix ? "always" : "never"));
  if (scheme == "always") return SplitStep::Prepend::kAlways;
  if (scheme == "first") return SplitStep::Prepend::kFirst;
  if (scheme == "never") return SplitStep::Prepend::kNever;
  return field["prepend_scheme"].Wrong(Quoted(scheme) + " is not supported");
}

absl::StatusOr<SplitStep> ReadMetaspace(const JsonField& field) {
  RETURN_IF_ERROR(field.HasOnly(
      {"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split"}));
  SplitStep step;
  step.kind = SplitStep::Kind::kMetaspace;
  ASSIGN_OR_RETURN(step.text, field["replacement"].String("\u2581"));
  if (step.text.empty()) return field["replacement"].Wrong("is empty");
  ASSIGN_OR_RETURN(step.prepend, ReadPrepend(field));
  ASSIGN_OR_RETURN(step.cut, field["split"].Bool(true));
  return step;
}

absl::Status ReadPreTokenizerStep(const JsonField& field, const std::string& type,
                                  TokenizerSpec& spec) {
  if (spec.model == "bpe") return field.Wrong("comes after a ByteLevel step");
  if (type == "Split") {
    ASSIGN_OR_RETURN(SplitStep step, ReadSplit(field));
    spec.splits.push_back(std::move(step));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(SplitStep step, ReadMetaspace(field));
    spec.splits.push_back(std::move(step));
  } else if (type == "Digits") {
    RETURN_IF_ERROR(field.HasOnly({"type", "individual_digits"}));
    ASSIGN_OR_RETURN(const bool each, field["individual_digits"].Bool(false));
    spec.splits.emplace_back().kind = each ? SplitStep::Kind::kEachDigit : SplitStep::Kind::kDigits;
  } else if (type == "ByteLevel") {
    RETURN_IF_ERROR(field.HasOnly({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    ASSIGN_OR_RETURN(const bool prefix, field["add_prefix_space"].Bool(true));
    ASSIGN_OR_RETURN(const bool regex, field["use_regex"].Bool(true));
    if (prefix) spec.splits.emplace_back().kind = SplitStep::Kind::kPrefixSpace;
    if (regex) spec.splits.emplace_back().text = std::string(Gpt2Pattern());
    spec.model = "bpe";
  } else {
    return UnknownType(field, type);
  }
  return absl::OkStatus();
}

absl::StatusOr<DecoderStep> ReadStrip(const JsonField& field, bool fused) {
  RETURN_IF_ERROR(field.HasOnly({"type", "content", "start", "stop"}));
  DecoderStep step;
  step.kind = fused ? DecoderStep::Kind::kStripFirst : DecoderStep::Kind::kStrip;
  ASSIGN_OR_RETURN(const std::string content, field["content"].String(""));
  if (content != " ") return field["content"].Wrong("only a space is supported");
  ASSIGN_OR_RETURN(const int64_t start, field["start"].Int(0, 1024));
  ASSIGN_OR_RETURN(const int64_t stop, field["stop"].Int(0, 1024));
  // After Fuse there is one text, which leaves here token by token: its end is not known.
  if (fused && start > 1) return field["start"].Wrong("only 0 and 1 are supported after Fuse");
  if (fused && stop > 0) return field["stop"].Wrong("only 0 is supported after Fuse");
  step.start = static_cast<int>(start);
  step.stop = static_cast<int>(stop);
  return step;
}

absl::Status ReadDecoderStep(const JsonField& field, const std::string& type, bool& fused,
                             TokenizerSpec& spec) {
  using Kind = DecoderStep::Kind;
  if (type == "Strip") {
    ASSIGN_OR_RETURN(DecoderStep step, ReadStrip(field, fused));
    if (!fused || step.start > 0) spec.decoder.push_back(std::move(step));
    return absl::OkStatus();
  }
  DecoderStep step;
  if (type == "Fuse") {
    fused = true;
    return field.HasOnly({"type"});
  }
  if (fused) return field.Wrong("comes after Fuse");
  if (type == "ByteLevel") {
    RETURN_IF_ERROR(field.HasOnly({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    if (!spec.decoder.empty()) return field.Wrong("is not the first step");
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    RETURN_IF_ERROR(field.HasOnly({"type"}));
    step.kind = Kind::kByteFallback;
  } else if (type == "Replace") {
    RETURN_IF_ERROR(field.HasOnly({"type", "pattern", "content"}));
    step.kind = Kind::kReplace;
    ASSIGN_OR_RETURN(step.from, TextPattern(field["pattern"]));
    ASSIGN_OR_RETURN(step.to, field["content"].String(""));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(SplitStep like, ReadMetaspace(field));
    step.kind = Kind::kMetaspace;
    step.from = std::move(like.text);
    step.strip_first = like.prepend != SplitStep::Prepend::kNever;
  } else {
    return UnknownType(field, type);
  }
  spec.decoder.push_back(std::move(step));
  return absl::OkStatus();
}

// One entry of a template: {"SpecialToken": {"id": text}} or {"Sequence": {"id": "A"}}.
absl::Status ReadTemplateEntry(const JsonField& entry, const JsonField& tokens, bool& text_seen,
                               TokenizerSpec& spec) {
  RETURN_IF_ERROR(entry.HasOnly({"SpecialToken", "Sequence"}));
  if (!entry["Sequence"].absent()) {
    if (text_seen) return entry.Wrong("the text comes twice");
    text_seen = true;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string name, entry["SpecialToken"]["id"].String(""));
  const JsonField ids = tokens[name]["ids"];
  RETURN_IF_ERROR(ids.IsArray());
  for (size_t i = 0; i < ids.json().array().size(); ++i) {
    const auto last = static_cast<int64_t>(spec.tokens.size()) - 1;
    ASSIGN_OR_RETURN(const int64_t id, ids.At(i).Int(0, last));
    (text_seen ? spec.suffix : spec.prefix).push_back(static_cast<TokenId>(id));
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessorStep(const JsonField& field, const std::string& type,
                                   TokenizerSpec& spec) {
  // ByteLevel trims offsets, which we do not give.
  if (type == "ByteLevel") {
    return field.HasOnly({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  if (type != "TemplateProcessing") return UnknownType(field, type);
  RETURN_IF_ERROR(field.HasOnly({"type", "single", "pair", "special_tokens"}));
  const JsonField single = field["single"];
  RETURN_IF_ERROR(single.IsArray());
  bool text_seen = false;
  for (size_t i = 0; i < single.json().array().size(); ++i) {
    RETURN_IF_ERROR(ReadTemplateEntry(single.At(i), field["special_tokens"], text_seen, spec));
  }
  return text_seen ? absl::OkStatus() : single.Wrong("the text is missing");
}

}  // namespace

absl::Status ReadNormalizer(const JsonField& field, TokenizerSpec& spec) {
  return ReadSteps(field, "normalizers", [&](const JsonField& step, const std::string& type) {
    return ReadNormalizerStep(step, type, spec);
  });
}

absl::Status ReadPreTokenizer(const JsonField& field, TokenizerSpec& spec) {
  spec.model = "spm";
  return ReadSteps(field, "pretokenizers", [&](const JsonField& step, const std::string& type) {
    return ReadPreTokenizerStep(step, type, spec);
  });
}

absl::Status ReadDecoder(const JsonField& field, TokenizerSpec& spec) {
  bool fused = false;
  RETURN_IF_ERROR(ReadSteps(field, "decoders", [&](const JsonField& step, const std::string& type) {
    return ReadDecoderStep(step, type, fused, spec);
  }));
  const bool byte_level =
      spec.decoder.size() == 1 && spec.decoder[0].kind == DecoderStep::Kind::kByteLevel;
  if (spec.model == "bpe" && !byte_level) {
    return field.Wrong("a ByteLevel pre-tokenizer needs a ByteLevel decoder and no other");
  }
  if (spec.model != "bpe") {
    if (spec.decoder.empty()) return field.Wrong("is missing");
    for (const DecoderStep& step : spec.decoder) {
      if (step.kind != DecoderStep::Kind::kByteLevel) continue;
      return field.Wrong("a ByteLevel decoder needs a ByteLevel pre-tokenizer");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const JsonField& field, TokenizerSpec& spec) {
  return ReadSteps(field, "processors", [&](const JsonField& step, const std::string& type) {
    return ReadPostProcessorStep(step, type, spec);
  });
}

}  // namespace millrace::text
