// The files of a directory beside tokenizer.json.

#include <gtest/gtest.h>

#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace millrace::text {
namespace {

constexpr char kTokenizer[] = R"({"added_tokens":[
    {"id":3,"content":"<s>","special":true,"normalized":false},
    {"id":4,"content":"</s>","special":true,"normalized":false},
    {"id":6,"content":"<pad>","special":true,"normalized":false}],
  "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},
  "post_processor":{"type":"TemplateProcessing",
    "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
    "special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
  "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";

struct Files {
  std::optional<std::string> config, map, generation, chat_template;

  absl::StatusOr<HfText> Read() const {
    HfTextFiles files;
    files.directory = "dir";
    files.tokenizer_json = kTokenizer;
    files.tokenizer_config = config;
    files.special_tokens_map = map;
    files.generation_config = generation;
    files.chat_template = chat_template;
    return ReadHfText(files);
  }
  HfText Get() const {
    absl::StatusOr<HfText> text = Read();
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? std::move(*text) : HfText{};
  }
};

std::vector<TokenId> Ids(const HfText& text, const std::string& string) {
  return Tokenizer::Create(text.spec).value()->Encode(string, {});
}

TEST(HfText, TokenizerJsonAloneIsEnough) {
  const HfText text = Files{}.Get();
  EXPECT_EQ(text.spec.bos, -1);
  EXPECT_EQ(text.spec.eos, -1);
  EXPECT_EQ(text.pad, -1);
  EXPECT_FALSE(text.chat_template.has_value());
  EXPECT_TRUE(text.generation.end_tokens.empty());
  EXPECT_EQ(Ids(text, "ab"), (std::vector<TokenId>{3, 2}));
}

TEST(HfText, NamedTokensAreTextsOrObjects) {
  Files files;
  files.config = R"({"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},
                     "pad_token":null,"unk_token":"<absent>"})";
  files.map = R"({"eos_token":"<s>","pad_token":{"content":"<pad>"}})";
  const HfText text = files.Get();
  EXPECT_EQ(text.spec.bos, 3);
  EXPECT_EQ(text.spec.eos, 3);  // the map goes first
  EXPECT_EQ(text.pad, 6);
  EXPECT_EQ(text.generation.end_tokens, (std::vector<TokenId>{3}));
  files.config->insert(1, R"("added_tokens_decoder":{"3":{"content":"<s>"}},)");
  EXPECT_EQ(files.Get().spec.eos, 4);  // a config that lists its tokens says all
  EXPECT_EQ(files.Get().pad, -1);
}

// As transformers 5: what tokenizer.json says is put around a text.
TEST(HfText, PostProcessorDecidesWhatIsPutAround) {
  Files files;
  files.config = R"({"bos_token":"<s>","eos_token":"</s>","add_bos_token":false,
                     "add_eos_token":true})";
  EXPECT_EQ(Ids(files.Get(), "ab"), (std::vector<TokenId>{3, 2}));
}

TEST(HfText, ConfigAddsTokens) {
  Files files;
  files.config = R"({"added_tokens_decoder":{
      "3":{"content":"<s>","special":true},
      "5":{"content":"<five>","special":true,"normalized":false},
      "7":{"content":"<seven>","special":false,"normalized":false}}})";
  const HfText text = files.Get();
  ASSERT_EQ(text.spec.tokens.size(), 8u);
  EXPECT_EQ(text.spec.kinds[5], TokenKind::kControl);
  EXPECT_EQ(text.spec.kinds[7], TokenKind::kUserDefined);
  EXPECT_EQ(Ids(text, "ab<seven>b"), (std::vector<TokenId>{3, 2, 7, 1}));
}

TEST(HfText, Templates) {
  Files files;
  files.config = R"({"chat_template":"one"})";
  EXPECT_EQ(files.Get().chat_template, "one");
  files.config = R"({"chat_template":[{"name":"tool_use","template":"t"},
                                      {"name":"default","template":"d"}]})";
  HfText text = files.Get();
  EXPECT_EQ(text.chat_template, "d");
  ASSERT_EQ(text.named_templates.size(), 1u);
  EXPECT_EQ(text.named_templates[0].first, "tool_use");
  files.chat_template = "file";
  EXPECT_EQ(files.Get().chat_template, "file");
}

TEST(HfText, Generation) {
  Files files;
  files.config = R"({"bos_token":"<s>","eos_token":"</s>"})";
  files.generation = R"({"_from_model_config":true,"bos_token_id":3,"eos_token_id":[6,4,6],
      "pad_token_id":6,"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":20,"min_p":0.05,
      "repetition_penalty":1.05,"max_new_tokens":2048,"transformers_version":"4.51.0",
      "num_beams":1,"length_penalty":1.0,"typical_p":1.0,"suppress_tokens":null})";
  const GenerationConfig config = files.Get().generation;
  EXPECT_EQ(config.end_tokens, (std::vector<TokenId>{6, 4}));
  EXPECT_EQ(config.bos, 3);
  EXPECT_EQ(config.pad, 6);
  EXPECT_EQ(config.do_sample, true);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_p, 0.9);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.min_p, 0.05);
  EXPECT_EQ(config.repetition_penalty, 1.05);
  EXPECT_EQ(config.max_new_tokens, 2048);
  EXPECT_TRUE(config.not_applied.empty());
  files.generation = R"({"eos_token_id":6,"num_beams":4,"no_repeat_ngram_size":3,"top_k":null})";
  const GenerationConfig beams = files.Get().generation;
  EXPECT_EQ(beams.end_tokens, (std::vector<TokenId>{6, 4}));  // the tokenizer's own, too
  EXPECT_FALSE(beams.top_k.has_value());
  EXPECT_EQ(beams.not_applied, (std::vector<std::string>{"num_beams", "no_repeat_ngram_size"}));
}

TEST(HfText, RefusesByFileAndField) {
  const auto refused = [](const Files& files, const std::string& what) {
    const absl::Status status = files.Read().status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what;
    const std::string message(status.message());
    EXPECT_NE(message.find(what), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  };
  const auto config = [](const char* text) {
    Files files;
    files.config = text;
    return files;
  };
  const auto generation = [](const char* text) {
    Files files;
    files.generation = text;
    return files;
  };
  refused(config("{"), "dir/tokenizer_config.json: invalid JSON");
  refused(config("[]"), "dir/tokenizer_config.json: is not an object");
  refused(config(R"({"bos_token":"<x>"})"),
          "dir/tokenizer_config.json: bos_token: '<x>' is not in");
  refused(config(R"({"bos_token":7})"), "bos_token: is not a string");
  refused(config(R"({"chat_template":7})"), "chat_template: is not an array");
  refused(config(R"({"chat_template":[{"name":1}]})"), "chat_template[0].name: is not a string");
  refused(config(R"({"added_tokens_decoder":{"3":{"content":"<q>"}}})"),
          "added_tokens_decoder.3.content: is '<q>', but tokenizer.json has '<s>'");
  refused(config(R"({"added_tokens_decoder":{"99":{"content":"<q>"}}})"),
          "added_tokens_decoder.99: is not an id");
  refused(config(R"({"added_tokens_decoder":{"x":{"content":"<q>"}}})"),
          "added_tokens_decoder.x: is not an id");
  Files map;
  map.map = R"({"eos_token":"<x>"})";
  refused(map, "dir/special_tokens_map.json: eos_token: '<x>' is not in");
  refused(generation("7"), "dir/generation_config.json: is not an object");
  refused(generation(R"({"eos_token_id":7})"), "eos_token_id: 7 is outside the vocabulary of 7");
  refused(generation(R"({"eos_token_id":-1})"), "eos_token_id: -1 is not between");
  refused(generation(R"({"eos_token_id":[4,"x"]})"), "eos_token_id[1]: is not an integer");
  refused(generation(R"({"temperature":-1})"), "temperature: is outside its range");
  refused(generation(R"({"top_p":1.5})"), "top_p: is outside its range");
  refused(generation(R"({"top_k":0.5})"), "top_k: is not an integer");
  refused(generation(R"({"top_k":-2})"), "top_k: -2 is not between");
  refused(generation(R"({"max_new_tokens":0})"), "max_new_tokens: 0 is not between");
  refused(generation(R"({"do_sample":"no"})"), "do_sample: is not true or false");
}

}  // namespace
}  // namespace millrace::text
