// Templates against the reference Jinja2, byte for byte, and errors where it has errors:
// tests/golden/text/make_template_golden.py.

#include <gtest/gtest.h>

#include "text/chat_template.h"
#include "text/test_vocabulary.h"

namespace millrace::text {
namespace {

class ChatTemplateGolden : public testing::Test {
 protected:
  void SetUp() override {
    JsonLimits limits;
    limits.values_max = 1'000'000;
    absl::StatusOr<Json> parsed =
        Json::Parse(ReadTestFile("tests/golden/text/template_golden.json"), limits);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    golden_ = std::move(*parsed);
  }

  TemplateInput Input(const Json& values) {
    TemplateInput input;
    input.bos_token = "<s>";
    input.eos_token = "</s>";
    golden_.Find("unix_seconds")->GetInt64(&input.unix_seconds);
    for (const JsonMember& member : values.object()) {
      if (member.first == "messages") {
        input.messages = member.second;
      } else if (member.first == "add_generation_prompt") {
        input.add_generation_prompt = member.second.bool_value();
      } else {
        input.extra.Add(member.first, member.second);
      }
    }
    return input;
  }

  // Null stands for an error of the reference, of parsing or of rendering.
  static Json Render(const std::string& source, const TemplateInput& input, std::string* error) {
    absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(source);
    if (!parsed.ok()) {
      *error = parsed.status().ToString();
      return nullptr;
    }
    absl::StatusOr<RenderedChat> rendered = parsed->Render(input);
    if (!rendered.ok()) {
      *error = rendered.status().ToString();
      return nullptr;
    }
    size_t at = 0;
    for (const TextRange& range : rendered->plain_ranges) {
      EXPECT_TRUE(range.begin >= at && range.begin < range.end);
      EXPECT_LE(range.end, rendered->text.size());
      at = range.end;
    }
    return rendered->text;
  }

  Json golden_;
};

TEST_F(ChatTemplateGolden, ConversationsRenderAsTheReference) {
  size_t rendered = 0;
  for (const Json& item : golden_.Find("cases")->array()) {
    const std::string& name = item.Find("template")->string_value();
    const std::string& input = item.Find("input")->string_value();
    std::string error;
    const Json got = Render(golden_.Find("templates")->Find(name)->string_value(),
                            Input(*golden_.Find("inputs")->Find(input)), &error);
    EXPECT_EQ(got.Dump(), item.Find("expect")->Dump()) << name << " / " << input << "\n" << error;
    rendered += got.is_string();
  }
  EXPECT_GE(golden_.Find("templates")->object().size(), 30u);
  EXPECT_GE(rendered, 300u);
}

TEST_F(ChatTemplateGolden, SnippetsRenderAsTheReference) {
  const TemplateInput input = Input(*golden_.Find("values"));
  size_t failed = 0;
  for (const Json& item : golden_.Find("snippets")->array()) {
    std::string error;
    const Json got = Render(item.Find("source")->string_value(), input, &error);
    EXPECT_EQ(got.Dump(), item.Find("expect")->Dump())
        << item.Find("source")->string_value() << "\n"
        << error;
    failed += got.is_null();
  }
  EXPECT_GE(failed, 100u);
}

}  // namespace
}  // namespace millrace::text
