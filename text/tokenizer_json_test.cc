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
      if (member.first != "model") {
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

}  // namespace
}  // namespace millrace::text
