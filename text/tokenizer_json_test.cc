#include "text/tokenizer_json.h"

#include <gtest/gtest.h>

#include "text/test_strings.h"
#include "text/test_vocabulary.h"
#include "text/tokenizer.h"

namespace millrace::text {
namespace {

// `base` with members replaced; those of "model" are replaced one by one.
std::string Patched(const Json& base, const Json& members) {
  Json out = base;
  for (const JsonMember& member : members.object()) {
    bool found = false;
    for (JsonMember& old : out.object()) {
      if (old.first != member.first) continue;
      found = true;
      if (member.first != "model" || !member.second.is_object()) {
        old.second = member.second;
        continue;
      }
      for (const JsonMember& option : member.second.object()) {
        std::erase_if(old.second.object(),
                      [&](const JsonMember& m) { return m.first == option.first; });
        old.second.Add(option.first, option.second);
      }
    }
    if (!found) out.Add(member.first, member.second);
  }
  return out.Dump();
}

Json Base(const std::string& family) {
  return Json::Parse(FamilyJson(family), TokenizerJsonLimits()).value();
}

// tests/golden/text/tokenizer_steps.py.
TEST(TokenizerSteps, EachIsAsTheReferenceDoesIt) {
  const Json golden = Json::Parse(ReadTestFile("tests/golden/text/tokenizer_steps.json")).value();
  const JsonArray& strings = golden.Find("strings")->array();
  for (const Json& item : golden.Find("cases")->array()) {
    const std::string& name = item.Find("name")->string_value();
    const std::string source = Patched(Base(item.Find("base")->string_value()), *item.Find("set"));
    auto spec = TokenizerSpecFromJson(source, name);
    ASSERT_TRUE(spec.ok()) << name << ": " << spec.status();
    auto tokenizer = Tokenizer::Create(std::move(*spec));
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    for (size_t i = 0; i < strings.size(); ++i) {
      std::vector<TokenId> expected;
      for (const Json& id : item.Find("ids")->array()[i].array()) {
        int64_t value = 0;
        ASSERT_TRUE(id.GetInt64(&value));
        expected.push_back(static_cast<TokenId>(value));
      }
      EncodeOptions options;
      options.parse_special = true;
      const auto ids = (*tokenizer)->Encode(strings[i].string_value(), options);
      EXPECT_EQ(ids, expected) << name << ": " << strings[i].Dump();
      if (item.Find("text")->is_null()) continue;
      EXPECT_EQ(Decode(**tokenizer, expected, true), item.Find("text")->array()[i].string_value())
          << name << ": " << strings[i].Dump();
      EXPECT_EQ(Decode(**tokenizer, expected, false), item.Find("all")->array()[i].string_value())
          << name << ": " << strings[i].Dump();
    }
  }
  EXPECT_GE(golden.Find("cases")->array().size(), 40u);
}

// A vocabulary of a few letters, complete and small, for the files below.
std::string Small(const std::string& patch = "{}") {
  const Json base = Json::Parse(R"({"version":"1.0","truncation":null,"padding":null,
      "added_tokens":[{"id":5,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
      "normalized":false,"special":true}],"normalizer":null,
      "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,
      "use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel"},
      "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"c":3,"abc":4},
      "merges":["a b",["ab","c"]]}})")
                        .value();
  return Patched(base, Json::Parse(patch).value());
}

absl::Status Load(const std::string& json) {
  auto spec = TokenizerSpecFromJson(json, "dir/tokenizer.json");
  return spec.ok() ? Tokenizer::Create(std::move(*spec)).status() : spec.status();
}

void ExpectRefused(const std::string& json, const std::string& what) {
  const absl::Status status = Load(json);
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what << "\n"
                                                               << json.substr(0, 999);
  const std::string message(status.message());
  EXPECT_NE(message.find(what), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 400u) << message;
}

TEST(TokenizerJson, LoadsASmallFile) {
  auto spec = TokenizerSpecFromJson(Small(), "f");
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::Create(std::move(*spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("abcab", {}), (std::vector<TokenId>{4, 2}));
  EXPECT_EQ((*tokenizer)->FindToken("<s>"), 5);
}

// Each part names its field.
TEST(TokenizerJson, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"normalizer":{"type":"Nmt"}})", "dir/tokenizer.json: normalizer.type: 'Nmt' is not"},
      {R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Precompiled"}]}})",
       "normalizer.normalizers[1].type: 'Precompiled'"},
      {R"({"normalizer":{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}})",
       "normalizer.pattern.Regex: is not supported"},
      {R"({"normalizer":{"type":"NFC","more":1}})", "normalizer.more: is not supported"},
      {R"({"normalizer":7})", "normalizer: is not an object"},
      {R"({"normalizer":{"type":"Sequence","normalizers":{}}})", "normalizers: is not an array"},
      {R"({"pre_tokenizer":{"type":"UnicodeScripts"}})", "pre_tokenizer.type: 'UnicodeScripts'"},
      {R"({"pre_tokenizer":{"type":"Whitespace"}})", "pre_tokenizer.type: 'Whitespace'"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+"},"behavior":"Isolated"}})",
       "pre_tokenizer.pattern.Regex: this regular expression"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?<=x)a"},"behavior":"Isolated"}})",
       "pre_tokenizer.pattern.Regex: this regular expression"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Sideways"}})",
       "pre_tokenizer.behavior: 'Sideways'"},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"String":""},"behavior":"Isolated"}})",
       "pre_tokenizer.pattern.String: is empty"},
      {R"({"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"maybe"}})",
       "pre_tokenizer.prepend_scheme: 'maybe'"},
      {R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},
          {"type":"Digits"}]}})",
       "pretokenizers[1]: comes after a ByteLevel"},
      {R"({"decoder":null})", "decoder: a ByteLevel pre-tokenizer needs"},
      {R"({"decoder":{"type":"WordPiece","prefix":"##"}})", "decoder.type: 'WordPiece'"},
      {R"({"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]}})",
       "decoders[1]: comes after Fuse"},
      {R"({"pre_tokenizer":null})", "decoder: a ByteLevel decoder needs"},
      {R"({"post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["b",1]}})",
       "post_processor.type: 'BertProcessing'"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x",
          "type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],
          "special_tokens":{"x":{"id":"x","ids":[6],"tokens":["x"]}}}})",
       "post_processor.special_tokens.x.ids[0]: 6 is not between 0 and 5"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}}})",
       "post_processor.single: the text is missing"},
      {R"({"model":{"type":"Unigram"}})", "model.type: 'Unigram' is not supported"},
      {R"({"model":{"type":"WordPiece"}})", "model.type: 'WordPiece' is not supported"},
      {R"({"model":{"dropout":0.1}})", "model.dropout: is outside its range"},
      {R"({"model":{"end_of_word_suffix":"</w>"}})", "model.end_of_word_suffix: is not supported"},
      {R"({"model":{"continuing_subword_prefix":"##"}})", "model.continuing_subword_prefix"},
      {R"({"model":{"unk_token":"?"}})", "model.unk_token: '?' is not in the vocabulary"},
      {R"({"model":{"byte_fallback":true}})", "model.byte_fallback: is not supported with"},
      {R"({"model":{"ignore_merges":"yes"}})", "model.ignore_merges: is not true or false"},
      {R"({"model":{"line\nbreak":1}})", "model.line?break: is not supported"},
      {R"({"unheard_of":1})", "unheard_of: is not supported"},
  };
  for (const auto& c : cases) ExpectRefused(Small(c.first), c.second);
}

// TK-04.
TEST(TokenizerJson, RefusesBrokenVocabularies) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"model":{"vocab":{}}})", "model.merges[0]: 'a' is not in the vocabulary"},
      {R"({"model":{"vocab":[]}})", "model.vocab: is not an object"},
      {R"({"model":{"vocab":{"a":-1}}})", "model.vocab: the id of 'a'"},
      {R"({"model":{"vocab":{"a":1.5}}})", "model.vocab: the id of 'a'"},
      {R"({"model":{"vocab":{"a":"0"}}})", "model.vocab: the id of 'a'"},
      {R"({"model":{"vocab":{"a":99999999999}}})", "model.vocab: the id of 'a'"},
      {R"({"model":{"vocab":{"a":70000}}})", "model.vocab: the id of 'a'"},
      {R"({"model":{"vocab":{"a":0,"b":0}}})", "model.vocab: two tokens have id 0"},
      {R"({"model":{"merges":["a"]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":["a b c"]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":[" b"]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":[["a"]]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":[["a","b","c"]]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":[["a",1]]}})", "model.merges[0]: is not two tokens"},
      {R"({"model":{"merges":["a b","a x"]}})", "model.merges[1]: 'x' is not in the vocabulary"},
      {R"({"model":{"merges":["b a"]}})", "model.merges[0]: what it makes is not"},
      {R"({"model":{"merges":"a b"}})", "model.merges: is not an array"},
      {R"({"model":null})", "model"},
      {R"({"added_tokens":[{"id":5}]})", "added_tokens[0].content: is empty"},
      {R"({"added_tokens":[{"content":"x"}]})", "added_tokens[0].id: is missing"},
      {R"({"added_tokens":[{"id":-1,"content":"x"}]})", "added_tokens[0].id: -1 is not between"},
      {R"({"added_tokens":[{"id":4294967296,"content":"x"}]})", "added_tokens[0].id: 4294967296"},
      {R"({"added_tokens":[{"id":0,"content":"x"}]})", "added_tokens[0].id: 0 is another token"},
      {R"({"added_tokens":[{"id":9,"content":"x"},{"id":9,"content":"y"}]})",
       "added_tokens[1].id: 9 is another token"},
      {R"({"added_tokens":[{"id":9,"content":"x"},{"id":8,"content":"x"}]})",
       "added_tokens[1].id: is 8, but 'x' has id 9"},
      {R"({"added_tokens":[{"id":9,"content":"x","trust":1}]})", "added_tokens[0].trust: is not"},
      {R"({"added_tokens":{}})", "added_tokens: is not an array"},
  };
  for (const auto& c : cases) ExpectRefused(Small(c.first), c.second);
  Json many = Json::Parse(R"({"added_tokens":[]})").value();
  for (int i = 0; i < 70'000; ++i) many.object()[0].second.array().emplace_back(i);
  Json base = Json::Parse(Small()).value();
  ExpectRefused(Patched(base, many), "added_tokens: 70000 tokens, at most 65536");
  Json longest = Json::Parse(R"({"added_tokens":[{"id":9}]})").value();
  longest.object()[0].second.array()[0].Add("content", std::string(2000, 'x'));
  ExpectRefused(Patched(base, longest), "special token 9 has 2000 bytes");
}

TEST(TokenizerJson, RefusesWhatIsNoJson) {
  ExpectRefused("", "dir/tokenizer.json: invalid JSON");
  ExpectRefused("[]", "is not an object");
  ExpectRefused(Small().substr(0, 200), "invalid JSON");
  ExpectRefused(Small() + "x", "invalid JSON");
  ExpectRefused("\xef\xbb\xbf" + Small(), "byte order mark");
  ExpectRefused(R"({"model":{"vocab":{"a":0,"a":1}}})", "duplicate key");
  // A lone surrogate is no character; neither is a byte 0xff.
  ExpectRefused(R"({"model":{"vocab":{"\ud800":0}}})", "invalid JSON");
  ExpectRefused("{\"\xff\":1}", "not UTF-8");
  std::string deep = R"({"type":"NFC"})";
  for (int i = 0; i < 100; ++i) deep = R"({"type":"Sequence","normalizers":[)" + deep + "]}";
  ExpectRefused(R"({"normalizer":)" + deep + "}", "nested deeper than");
  std::string keys = R"({"model":{"vocab":{"k":0)";
  for (int i = 0; i < 1'100'000; ++i) keys += ",\"" + std::to_string(i) + "\":1";
  ExpectRefused(keys + "}}}", "more than 1048576 keys");
}

// A token that has no rule to make it, and ids that no token has, are no error: published files
// have such.
TEST(TokenizerJson, AcceptsHolesAndWhatIsNeverMade) {
  auto spec = TokenizerSpecFromJson(
      Small(R"({"added_tokens":[{"id":9,"content":"<s>","special":true}]})"), "f");
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::Create(std::move(*spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 10);
  EXPECT_EQ((*tokenizer)->TokenBytes(7), "");
  EXPECT_FALSE((*tokenizer)->IsSpecial(7));
}

// TK-05: letters never become a control token, not by merging either, and not inside a range that
// came from a client.
TEST(TokenizerJson, ControlTokensAreNotMadeOfLetters) {
  const std::string json =
      Small(R"({"added_tokens":[{"id":4,"content":"abc","special":true,"normalized":false}]})");
  auto tokenizer = Tokenizer::Create(TokenizerSpecFromJson(json, "f").value()).value();
  EXPECT_EQ(tokenizer->Encode("abc", {}), (std::vector<TokenId>{2, 3}));
  EncodeOptions parse;
  parse.parse_special = true;
  EXPECT_EQ(tokenizer->Encode("abcabc", parse), (std::vector<TokenId>{4, 4}));
  const TextRange second[] = {{3, 6}};
  parse.plain_ranges = second;
  EXPECT_EQ(tokenizer->Encode("abcabc", parse), (std::vector<TokenId>{4, 2, 3}));
}

// White space that is itself a token and takes more along; a quadratic step would run for minutes.
TEST(TokenizerJson, TokensOfWhiteSpaceTakeLinearTime) {
  const std::string json = Small(R"({"added_tokens":[
      {"id":5,"content":"\n","rstrip":true,"normalized":false},
      {"id":6,"content":"\t","lstrip":true,"normalized":false}]})");
  auto tokenizer = Tokenizer::Create(TokenizerSpecFromJson(json, "f").value()).value();
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, '\n'), {}).size(), size_t{1} << 20);
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, '\t'), {}).size(), size_t{1} << 20);
}

// The same where the token is looked for in the normalized text, whose bytes lie elsewhere.
TEST(TokenizerJson, PlainRangesFollowTheNormalizer) {
  const std::string json = Small(R"({
      "added_tokens":[{"id":5,"content":"<ab>","special":true,"normalized":true}],
      "normalizer":{"type":"Sequence","normalizers":[
        {"type":"Prepend","prepend":"c"},{"type":"Replace","pattern":{"String":"b"},"content":"bb"},
        {"type":"NFC"}]}})");
  auto tokenizer = Tokenizer::Create(TokenizerSpecFromJson(json, "f").value());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // The token itself becomes "c<abb>"; the text "b" + "<ab>" becomes "cbb<abb>".
  const auto encode = [&](const std::string& text, std::vector<TextRange> ranges) {
    EncodeOptions options;
    options.parse_special = true;
    options.plain_ranges = ranges;
    return (*tokenizer)->Encode(text, options);
  };
  EXPECT_EQ(encode("<ab>bc<ab>", {}), (std::vector<TokenId>{5, 1, 1, 5}));
  EXPECT_EQ(encode("<ab>bc<ab>", {{4, 10}}), (std::vector<TokenId>{5, 1, 1, 3, 2, 1}));
  EXPECT_EQ(encode("<ab>bc<ab>", {{4, 5}}), (std::vector<TokenId>{5, 1, 1, 5}));
  EXPECT_EQ(encode("<ab>bc<ab>", {{0, 4}}), (std::vector<TokenId>{3, 2, 1, 1, 1, 5}));
  // A mark that joins a letter across the border: the whole segment is plain.
  EXPECT_EQ(encode("<ab>e\u0301c<ab>", {{5, 7}}), (std::vector<TokenId>{3, 2, 1, 3, 2, 1}));
}

}  // namespace
}  // namespace millrace::text
