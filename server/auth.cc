#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <fstream>
#include <iterator>
#include <sstream>

#include "base/status_macros.h"

namespace millrace::server {
namespace {

constexpr size_t kKeyBytesMin = 8;
constexpr size_t kKeyBytesMax = 512;
constexpr size_t kNameBytesMax = 64;

std::array<uint8_t, 32> Digest(std::string_view key) {
  std::array<uint8_t, 32> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

bool IsPrintable(std::string_view text) {
  for (const char c : text) {
    if (c <= ' ' || c > '~') return false;
  }
  return true;
}

absl::Status BadLine(size_t line, std::string_view why) {
  std::string text = "API key file, line " + std::to_string(line) + ": " + std::string(why);
  return absl::InvalidArgumentError(text);
}

bool EqualsIgnoreCase(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] + 32) : text[i];
    if (c != lower[i]) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<ApiKeys::Key>> ApiKeys::Parse(std::string_view file_text) {
  std::vector<Key> keys;
  size_t line_number = 0;
  while (!file_text.empty()) {
    ++line_number;
    const size_t end = file_text.find('\n');
    const std::string_view line = Trim(file_text.substr(0, end));
    file_text.remove_prefix(end == std::string_view::npos ? file_text.size() : end + 1);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    Key key;
    const std::string_view secret = colon == std::string_view::npos ? line : line.substr(colon + 1);
    key.name = colon == std::string_view::npos ? "key" + std::to_string(line_number)
                                               : std::string(line.substr(0, colon));
    if (key.name.empty() || key.name.size() > kNameBytesMax || !IsPrintable(key.name)) {
      return BadLine(line_number, "the name must be 1 to 64 printable characters");
    }
    if (secret.size() < kKeyBytesMin || secret.size() > kKeyBytesMax || !IsPrintable(secret)) {
      return BadLine(line_number, "a key must be 8 to 512 printable characters without spaces");
    }
    for (const Key& other : keys) {
      if (other.name == key.name) return BadLine(line_number, "the name was given before");
    }
    key.digest = Digest(secret);
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("the API key file holds no key");
  return keys;
}

absl::Status ApiKeys::Load(std::string_view file_text) {
  absl::StatusOr<std::vector<Key>> keys = Parse(file_text);
  if (!keys.ok()) return keys.status();
  std::lock_guard lock(mutex_);
  keys_ = *std::move(keys);
  return absl::OkStatus();
}

absl::Status ApiKeys::LoadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("cannot read the API key file " + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return Load(text);
}

bool ApiKeys::required() const {
  std::lock_guard lock(mutex_);
  return !keys_.empty();
}

std::optional<std::string> ApiKeys::Authenticate(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  std::string_view secret;
  if (EqualsIgnoreCase(authorization.substr(0, kScheme.size()), kScheme)) {
    secret = Trim(authorization.substr(kScheme.size()));
  }
  const std::array<uint8_t, 32> digest = Digest(secret.substr(0, kKeyBytesMax + 1));
  std::lock_guard lock(mutex_);
  if (keys_.empty()) return "";
  // Every digest is compared, whatever matched before: the time tells nothing about the set.
  const Key* found = nullptr;
  for (const Key& key : keys_) {
    if (CRYPTO_memcmp(key.digest.data(), digest.data(), digest.size()) == 0) found = &key;
  }
  if (found == nullptr || secret.empty()) return std::nullopt;
  return found->name;
}

absl::Status CheckBindAllowed(std::string_view host, bool keys_required) {
  const bool loopback =
      host == "localhost" || host == "::1" || host == "[::1]" || host.substr(0, 4) == "127.";
  if (loopback || keys_required) return absl::OkStatus();
  return absl::FailedPreconditionError("refusing to listen on " + std::string(host) +
                                       " without --api-key-file: anyone could use this node");
}

}  // namespace millrace::server
