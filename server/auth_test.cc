// Keys, and the authorization matrix made from the route table.
#include "server/auth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http_bench.h"

namespace millrace::server::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kKeys = "# a comment\nalice:secret-key-of-alice\n\nsecret-key-two\r\n";

TEST(ApiKeys, FileForms) {
  ApiKeys keys;
  EXPECT_FALSE(keys.required());
  EXPECT_EQ(keys.Authenticate(""), "");
  ASSERT_TRUE(keys.Load(kKeys).ok());
  EXPECT_TRUE(keys.required());
  EXPECT_EQ(keys.Authenticate("Bearer secret-key-of-alice"), "alice");
  EXPECT_EQ(keys.Authenticate("bearer  secret-key-of-alice"), "alice");
  EXPECT_EQ(keys.Authenticate("Bearer secret-key-two"), "key4");
  for (const char* wrong :
       {"", "Bearer", "Bearer ", "secret-key-two", "Basic secret-key-two", "Bearer secret-key-tw",
        "Bearer secret-key-two2", "Bearer alice", "Bearer alice:secret-key-of-alice"}) {
    EXPECT_EQ(keys.Authenticate(wrong), std::nullopt) << wrong;
  }
}

TEST(ApiKeys, BadFilesKeepTheOldSetAndNeverShowAKey) {
  ApiKeys keys;
  ASSERT_TRUE(keys.Load(kKeys).ok());
  for (const std::string bad : {"", "# only\n", "shortky\n", "a:secret-one-x\na:secret-two-x\n",
                                "name:with space key\n", ":secret-key-x\n",
                                "n:"
                                "\n"}) {
    const absl::Status status = keys.Load(bad);
    EXPECT_FALSE(status.ok()) << bad;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
    EXPECT_EQ(keys.Authenticate("Bearer secret-key-two"), "key4");
  }
  EXPECT_FALSE(keys.Load("n:" + std::string(513, 'k')).ok());
  EXPECT_TRUE(keys.Load("n:" + std::string(512, 'k')).ok());
  EXPECT_TRUE(keys.Load("n:" + std::string(8, 'k')).ok());
  EXPECT_FALSE(keys.Load("n:" + std::string(7, 'k')).ok());
}

TEST(ApiKeys, PublicBindsNeedKeys) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "localhost", "::1"}) {
    EXPECT_TRUE(CheckBindAllowed(host, false).ok()) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "example.com", ""}) {
    EXPECT_FALSE(CheckBindAllowed(host, false).ok()) << host;
    EXPECT_TRUE(CheckBindAllowed(host, true).ok()) << host;
  }
}

TEST(Auth, MatrixOfEveryRoute) {
  HttpBench bench(Says("x"), {}, kKeys);
  const std::vector<std::pair<std::string, bool>> callers = {
      {"", false},
      {"Authorization: Bearer wrong-key-here\r\n", false},
      {"Authorization: Bearer \r\n", false},
      {"Authorization: Basic c2VjcmV0LWtleS10d28=\r\n", false},
      {"X-Api-Key: secret-key-two\r\n", false},
      {"Authorization: Bearer secret-key-two\r\n", true},
      {"Authorization: Bearer secret-key-of-alice\r\n", true},
  };
  size_t guarded = 0;
  for (const Route& route : Routes()) {
    const std::string path = std::string(route.path) + (route.prefix ? "m" : "");
    guarded += route.auth == AuthClass::kKey ? 1 : 0;
    for (const char* method : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}) {
      for (const auto& [header, valid] : callers) {
        RawClient client(bench.server->port());
        client.Send(std::string(method) + " " + path + " HTTP/1.1\r\nHost: a\r\n" + header +
                    "Content-Length: 2\r\n\r\n{}");
        const ClientReply reply = client.Read(std::string_view(method) == "HEAD");
        const bool may = valid || route.auth == AuthClass::kPublic;
        EXPECT_EQ(reply.status == 401, !may) << method << " " << path << " " << header;
      }
    }
  }
  // Health and metrics are open; everything else is not.
  EXPECT_EQ(guarded, 7u);
  EXPECT_EQ(Routes().size(), 12u);
}

TEST(Auth, UnknownRoutesAre404OnlyWithAKey) {
  HttpBench bench(Says("x"), {}, kKeys);
  for (const char* path : {"/nothing", "/v1/", "/admin", "/v1/../metrics", "/metrics/x"}) {
    EXPECT_EQ(bench.Ask(Get(path)).status, 401) << path;
    EXPECT_EQ(bench.Ask(Get(path, "Authorization: Bearer secret-key-two\r\n")).status, 404);
  }
  EXPECT_EQ(bench.Ask(Get("/v1/models")).headers.at("www-authenticate"), "Bearer");
}

TEST(Auth, RevokedKeysStopWorking) {
  HttpBench bench(Says("x"), {}, kKeys);
  const std::string ask = Get("/v1/models", "Authorization: Bearer secret-key-two\r\n");
  EXPECT_EQ(bench.Ask(ask).status, 200);
  ASSERT_TRUE(bench.api_keys.Load("other-secret-key\n").ok());
  EXPECT_EQ(bench.Ask(ask).status, 401);
}

}  // namespace
}  // namespace millrace::server::testing
