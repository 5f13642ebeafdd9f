#include "server/openai_logprobs.h"

#include <algorithm>
#include <string_view>

#include "base/json_writer.h"

namespace millrace::server {
namespace {

void AppendToken(const TokenScore& token, bool as_id, std::string& out) {
  if (!as_id) return AppendJsonString(token.text, out);
  out += "\"token_id:";
  AppendJsonInt(token.id, out);
  out += '"';
}

void AppendChatToken(const TokenScore& token, bool as_id, std::string& out) {
  out += "{\"token\":";
  AppendToken(token, as_id, out);
  out += ",\"logprob\":";
  AppendJsonFloat(token.logprob, out);
  out += ",\"bytes\":[";
  for (size_t i = 0; i < token.bytes.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonInt(static_cast<unsigned char>(token.bytes[i]), out);
  }
  out += ']';
}

// The map of one position. Of two tokens with one text the first stands; the token itself is in the
// map even when it is not among the most likely.
void AppendTopMap(const TokenLogprobText& token, bool as_ids, std::string& out) {
  if (!token.scored) {
    out += "null";
    return;
  }
  std::vector<const TokenScore*> entries;
  const auto add = [&](const TokenScore& score) {
    const bool seen = std::any_of(entries.begin(), entries.end(), [&](const TokenScore* other) {
      return as_ids ? other->id == score.id : other->text == score.text;
    });
    if (!seen) entries.push_back(&score);
  };
  for (const TokenScore& score : token.top) add(score);
  add(token.token);
  out += '{';
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += ',';
    AppendToken(*entries[i], as_ids, out);
    out += ':';
    AppendJsonFloat(entries[i]->logprob, out);
  }
  out += '}';
}

}  // namespace

void AppendChatLogprobs(const std::vector<TokenLogprobText>& tokens, bool as_ids,
                        std::string& out) {
  out += "{\"content\":[";
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    AppendChatToken(tokens[i].token, as_ids, out);
    out += ",\"top_logprobs\":[";
    for (size_t k = 0; k < tokens[i].top.size(); ++k) {
      if (k > 0) out += ',';
      AppendChatToken(tokens[i].top[k], as_ids, out);
      out += '}';
    }
    out += "]}";
  }
  out += "],\"refusal\":null}";
}

void AppendCompletionLogprobs(const std::vector<TokenLogprobText>* prompt,
                              const std::vector<TokenLogprobText>& tokens, bool as_ids,
                              std::string& out) {
  std::vector<const TokenLogprobText*> all;
  if (prompt != nullptr) {
    for (const TokenLogprobText& token : *prompt) all.push_back(&token);
  }
  for (const TokenLogprobText& token : tokens) all.push_back(&token);
  const auto list = [&](const char* name, auto append) {
    out += name;
    for (size_t i = 0; i < all.size(); ++i) {
      if (i > 0) out += ',';
      append(*all[i]);
    }
    out += ']';
  };
  list("{\"tokens\":[", [&](const TokenLogprobText& t) { AppendToken(t.token, as_ids, out); });
  list(",\"token_logprobs\":[", [&](const TokenLogprobText& t) {
    if (t.scored) {
      AppendJsonFloat(t.token.logprob, out);
    } else {
      out += "null";
    }
  });
  list(",\"top_logprobs\":[", [&](const TokenLogprobText& t) { AppendTopMap(t, as_ids, out); });
  list(",\"text_offset\":[", [&](const TokenLogprobText& t) { AppendJsonInt(t.text_offset, out); });
  out += '}';
}

void AppendPromptLogprobs(const std::vector<TokenLogprobText>& tokens, std::string& out) {
  out += '[';
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    if (!tokens[i].scored) {
      out += "null";
      continue;
    }
    bool own = false;
    out += '{';
    const auto entry = [&](const TokenScore& score) {
      if (out.back() != '{') out += ',';
      out += '"';
      AppendJsonInt(score.id, out);
      out += "\":{\"logprob\":";
      AppendJsonFloat(score.logprob, out);
      out += ",\"rank\":";
      AppendJsonInt(score.rank, out);
      out += ",\"decoded_token\":";
      AppendJsonString(score.text, out);
      out += '}';
    };
    for (const TokenScore& score : tokens[i].top) {
      entry(score);
      own = own || score.id == tokens[i].token.id;
    }
    if (!own) entry(tokens[i].token);
    out += '}';
  }
  out += ']';
}

void AppendTokenIds(const std::vector<TokenId>& ids, std::string& out) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonInt(ids[i], out);
  }
  out += ']';
}

}  // namespace millrace::server
