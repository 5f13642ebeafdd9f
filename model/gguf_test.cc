// The GGUF reader against files that lie. Rows are those of the list of known failures of other
// readers (GG-01 .. GG-18); each is refused with one line that names what is wrong.

#include "model/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "model/gguf_model.h"
#include "model/load_model.h"
#include "tests/support/gguf_writer.h"

namespace millrace::model {
namespace {

using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::LlamaShape;
using testing::RandomLlama;

// Container and description together, on 8-byte aligned memory of exactly the file's size, so that
// a sanitizer sees any read beyond it.
absl::Status Check(const std::string& file) {
  std::unique_ptr<std::byte[]> bytes(new std::byte[file.size()]);
  std::memcpy(bytes.get(), file.data(), file.size());
  const auto contents = ParseGguf({bytes.get(), file.size()}, "x.gguf");
  if (!contents.ok()) return contents.status();
  return DescribeGguf(*contents).status();
}

void ExpectRefused(const std::string& file, const std::string& says) {
  const absl::Status status = Check(file);
  EXPECT_FALSE(status.ok()) << "accepted; should say: " << says;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr(says));
  EXPECT_THAT(message, HasSubstr("x.gguf"));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 400u);
}

// A small right file, changed by `change` before it is built.
std::string Changed(const std::function<void(GgufWriter&)>& change) {
  GgufWriter w = RandomLlama({}, 1, true);
  change(w);
  return w.Build();
}

TEST(Gguf, ReadsWhatItShould) {
  for (int64_t version : {2, 3}) {
    GgufWriter w = RandomLlama({}, 1, true);
    w.version = version;
    w.Key("wide", 10, GgufWriter::Bytes<uint64_t>(1ull << 40));
    w.Key("negative", 1, GgufWriter::Bytes<int8_t>(-7));
    w.Key("double", 12, GgufWriter::Bytes<double>(0.5));
    w.Bool("flag", true);
    const std::string file = w.Build();
    const auto contents = ParseGguf(std::as_bytes(std::span(file)), "x.gguf");
    ASSERT_TRUE(contents.ok()) << contents.status();
    const GgufMetadata& m = contents->metadata;
    EXPECT_EQ(contents->version, version);
    EXPECT_EQ(*m.Int("wide"), int64_t{1} << 40);
    EXPECT_EQ(*m.Int("negative"), -7);
    EXPECT_EQ(*m.Float("double"), 0.5);
    EXPECT_TRUE(*m.Bool("flag"));
    EXPECT_EQ(*m.String("general.architecture"), "llama");
    EXPECT_EQ(m.Strings("tokenizer.ggml.tokens")->at(41), "t41");
    EXPECT_EQ(m.Numbers("tokenizer.ggml.token_type")->size(), 100u);
    EXPECT_EQ(m.Int("absent").status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(m.Int("flag").status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(m.String("flag").status().message()), HasSubstr("'flag' is bool"));
    EXPECT_FALSE(m.Numbers("tokenizer.ggml.tokens").ok());
    EXPECT_FALSE(m.Strings("tokenizer.ggml.token_type").ok());
    const auto description = DescribeGguf(*contents);
    ASSERT_TRUE(description.ok()) << description.status();
    EXPECT_EQ(description->config.vocab_size, 100);
    EXPECT_EQ(description->config.head_dim, 32);
    EXPECT_TRUE(description->config.tied_embeddings);
    EXPECT_TRUE(description->config.rope.interleaved);
    EXPECT_EQ(description->tensors.at("layers.1.down").matrix.rows, 64);
    EXPECT_EQ(description->tensors.at("layers.1.down").matrix.cols, 96);
  }
}

TEST(Gguf, Header) {
  ExpectRefused("", "not a GGUF");
  ExpectRefused("GG", "not a GGUF");
  ExpectRefused("GGUF", "ends inside the header");
  ExpectRefused("PK\x03\x04 and so on for a while", "not a GGUF");
  ExpectRefused(Changed([](GgufWriter& w) { w.version = 1; }), "version 1");
  ExpectRefused(Changed([](GgufWriter& w) { w.version = 4; }), "version 4");
  ExpectRefused(Changed([](GgufWriter& w) { w.version = 0x03000000; }), "big-endian");
}

TEST(Gguf, Gg01CountsBeyondTheFile) {
  for (int64_t count : {int64_t{1} << 32, int64_t{1} << 62, INT64_MAX, int64_t{100000}}) {
    ExpectRefused(Changed([&](GgufWriter& w) { w.tensor_count = count; }), "tensors, more than");
    ExpectRefused(Changed([&](GgufWriter& w) { w.key_count = count; }), "keys, more than");
  }
}

TEST(Gguf, Gg02StringLengths) {
  for (uint64_t length : {UINT64_MAX, UINT64_MAX - 7, uint64_t{1} << 40, uint64_t{1} << 20}) {
    ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 8, GgufWriter::Bytes(length)); }),
                  "a string of");
    std::string file = "GGUF" + GgufWriter::Bytes<uint32_t>(3) + GgufWriter::Bytes<uint64_t>(0) +
                       GgufWriter::Bytes<uint64_t>(1) + GgufWriter::Bytes(length) +
                       std::string(64, 'k');
    ExpectRefused(file, "a key's name of");
  }
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("", 1); }), "a key without a name");
}

TEST(Gguf, Gg03Arrays) {
  const auto array = [](uint32_t element, uint64_t count) {
    return GgufWriter::Bytes(element) + GgufWriter::Bytes(count) + std::string(32, '\0');
  };
  ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 9, array(9, 1)); }), "array of array");
  ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 9, array(13, 1)); }), "not allowed");
  ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 9, array(0xffffffff, 1)); }),
                "not allowed");
  for (uint64_t count : {UINT64_MAX, uint64_t{1} << 61, uint64_t{1} << 63, uint64_t{1} << 40}) {
    for (uint32_t element : {0u, 4u, 8u, 12u}) {
      ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 9, array(element, count)); }),
                    "do not fit the file");
    }
  }
  ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 77, "12345678"); }), "unknown value type");
  ExpectRefused(Changed([&](GgufWriter& w) { w.Key("k", 7, "\x02"); }), "not 0 or 1");
}

TEST(Gguf, Gg04Shapes) {
  const uint64_t kBig = uint64_t{1} << 63;
  const std::vector<std::vector<uint64_t>> shapes = {{kBig - 1, 2, 1, 1},
                                                     {uint64_t{1} << 32, uint64_t{1} << 32},
                                                     {kBig, 2},
                                                     {0},
                                                     {32, 0},
                                                     {32, UINT64_MAX},
                                                     {UINT64_MAX},
                                                     {1, kBig, 2, 1},
                                                     {32, kBig, kBig, 4},
                                                     {uint64_t{1} << 60, 16}};
  for (const auto& shape : shapes) {
    for (uint32_t type : {0u, 1u, 8u, 3u}) {
      const auto status =
          Check(Changed([&](GgufWriter& w) { w.Tensor("t", shape, type, "1234"); }));
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(std::string(status.message()), HasSubstr("'t'"));
    }
  }
}

TEST(Gguf, Gg05Ranks) {
  ExpectRefused(Changed([](GgufWriter& w) { w.Tensor("t", {}, 0, "1234"); }), "0 dimensions");
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.Tensor("t", {1, 1, 1, 1, 1}, 0, "1234");
                }),
                "5 dimensions");
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.Tensor("t", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, "1");
                }),
                "9 dimensions");
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.Tensor("t", {1, 1, 1}, 0, "1234");
                }),
                "3 dimensions; at most 2");
}

TEST(Gguf, Gg06Alignment) {
  for (uint32_t alignment : {0u, 1u, 3u, 4u, 48u, 1u << 17, 1u << 31}) {
    ExpectRefused(Changed([&](GgufWriter& w) { w.U32("general.alignment", alignment); }),
                  "power of two");
  }
  ExpectRefused(Changed([](GgufWriter& w) { w.String("general.alignment", "32"); }),
                "not an integer");
  GgufWriter wide;
  wide.alignment = 4096;
  wide.U32("general.alignment", 4096);
  wide.Tensor("t", {4}, 0, std::string(16, 'x'));
  const std::string file = wide.Build();
  EXPECT_TRUE(ParseGguf(std::as_bytes(std::span(file)), "x").ok());
}

TEST(Gguf, Gg07Offsets) {
  const std::string data(64, 'x');
  const auto with_offset = [&](int64_t offset) {
    return Changed([&](GgufWriter& w) { w.Tensor("t", {16}, 0, data, offset); });
  };
  ExpectRefused(with_offset(int64_t{1} << 40), "needs 64 bytes at offset");
  ExpectRefused(with_offset(INT64_MAX / 32 * 32), "needs 64 bytes at offset");
  ExpectRefused(with_offset(-32), "needs 64 bytes at offset 18446744073709551584");  // wraps
  ExpectRefused(with_offset(17), "is not a multiple of 32");
  ExpectRefused(with_offset(0), "overlaps tensor");
  ExpectRefused(with_offset(32), "overlaps tensor");
}

TEST(Gguf, Gg08EveryCutIsRefused) {
  GgufWriter w = RandomLlama({}, 1, true);
  w.pad_end = false;
  const std::string file = w.Build();
  ASSERT_TRUE(Check(file).ok());
  std::mt19937_64 random(3);
  for (int i = 0; i < 1000; ++i) {
    // Half of the cuts in the first 4 kB, where the structure is.
    const size_t range = i % 2 == 0 ? file.size() : std::min<size_t>(file.size(), 4096);
    const size_t cut = random() % range;
    EXPECT_FALSE(Check(file.substr(0, cut)).ok()) << cut;
  }
  EXPECT_FALSE(Check(file.substr(0, file.size() - 1)).ok());
}

// Padding may follow the last tensor, other bytes may not.
TEST(Gguf, AppendedBytesAreRefused) {
  GgufWriter w = RandomLlama({}, 1, true);
  w.pad_end = false;
  std::string file = w.Build();
  EXPECT_TRUE(Check(file + std::string(31, '\0')).ok());
  ExpectRefused(file + std::string(32, '\0'),
                "32 bytes at the end of the file belong to no tensor");
  ExpectRefused(file + file, "bytes at the end of the file belong to no tensor");
}

TEST(Gguf, Gg10Types) {
  ExpectRefused(Changed([](GgufWriter& w) { w.Tensor("t", {256}, 10, "x"); }),
                "type Q2_K is not supported (F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q3_K, Q4_K, "
                "Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16 are)");
  for (uint32_t type : {9u, 15u, 16u, 24u, 28u, 34u, 39u, 40u}) {
    ExpectRefused(Changed([&](GgufWriter& w) { w.Tensor("t", {256}, type, "x"); }),
                  "is not supported");
  }
  // Those of issue 4 are read: what is wrong here is only that the architecture wants no such one.
  const std::pair<uint32_t, size_t> read[] = {{6, 176},  {7, 192},  {11, 110}, {12, 144},
                                              {13, 176}, {14, 210}, {20, 144}, {23, 136}};
  for (const auto& [type, bytes] : read) {
    ExpectRefused(Changed([&, type = type, bytes = bytes](GgufWriter& w) {
                    w.Tensor("t", {256}, type, std::string(bytes, 'x'));
                  }),
                  "tensor 't' is not part of architecture");
  }
  ExpectRefused(Changed([](GgufWriter& w) { w.Tensor("t", {32}, 0xffffffff, "x"); }),
                "unknown type 4294967295");
  ExpectRefused(Changed([](GgufWriter& w) { w.Tensor("t", {33}, 8, std::string(68, 'x')); }),
                "not whole blocks of 32 (Q8_0)");
}

TEST(Gguf, Gg11Duplicates) {
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("llama.block_count", 2); }),
                "key 'llama.block_count' occurs twice");
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.Tensor("output_norm.weight", {64}, 0, std::string(256, 'x'));
                }),
                "tensor 'output_norm.weight' occurs twice");
}

TEST(Gguf, Gg12MetadataTypes) {
  const auto types = [](const std::string& value) {
    GgufWriter w = RandomLlama({}, 1);
    w.Strings("tokenizer.ggml.tokens", std::vector<std::string>(100, "t"));
    w.Key("tokenizer.ggml.token_type", 9, value);
    return w.Build();
  };
  const auto array = [](uint32_t element, uint64_t count, const std::string& bytes) {
    return GgufWriter::Bytes(element) + GgufWriter::Bytes(count) + bytes;
  };
  ExpectRefused(types(array(5, 99, std::string(396, '\0'))), "has 99 elements");
  ExpectRefused(types(array(0, 25, std::string(25, '\1'))), "has 25 elements");
  ExpectRefused(types(array(0, 100, std::string(100, '\x09'))), "no token type");
  ExpectRefused(types(array(8, 0, "")), "is an array of string");
  std::string nan = array(6, 100, "");
  for (int i = 0; i < 100; ++i) nan += GgufWriter::Bytes(std::numeric_limits<float>::quiet_NaN());
  ExpectRefused(types(nan), "no token type");
  ExpectRefused(Changed([&](GgufWriter& w) {
                  w.Key("tokenizer.ggml.scores", 9, array(6, 3, std::string(12, '\0')));
                }),
                "has 3 elements");
  ExpectRefused(
      Changed([](GgufWriter& w) { w.String("llama.rope.dimension_count", "sixty-four"); }),
      "not an integer");
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.F32("llama.rope.scaling.factor", std::numeric_limits<float>::infinity());
                }),
                "not a finite number");
}

TEST(Gguf, Gg13TokenIds) {
  for (const char* name : {"bos", "unknown", "padding", "eot"}) {
    for (uint32_t id : {100u, 1u << 31, 0xffffffffu}) {
      const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
      ExpectRefused(Changed([&](GgufWriter& w) { w.U32(key, id); }), key);
    }
  }
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("tokenizer.ggml.eos_token_id", 100); }),
                "tokenizer.ggml.eos_token_id");
  GgufWriter small = RandomLlama({}, 1);
  small.Strings("tokenizer.ggml.tokens", {"only"});
  ExpectRefused(small.Build(), "has 1 elements; the vocabulary has 100");
}

// Replaces a u32 key of the right file.
std::string WithKey(const std::string& key, uint32_t value) {
  std::string file = RandomLlama({}, 1, true).Build();
  const std::string entry = GgufWriter::Text(key) + GgufWriter::Bytes<uint32_t>(4);
  const size_t at = file.find(entry);
  EXPECT_NE(at, std::string::npos) << key;
  std::memcpy(file.data() + at + entry.size(), &value, 4);
  return file;
}

TEST(Gguf, Gg14And18Configurations) {
  ExpectRefused(WithKey("llama.embedding_length", 0), "embedding length is 0");
  ExpectRefused(WithKey("llama.embedding_length", 65), "tensor 'token_embd.weight' is 100 x 64");
  ExpectRefused(WithKey("llama.attention.head_count", 0), "must be at least 1");
  ExpectRefused(WithKey("llama.attention.head_count", 2), "the configuration needs 64 x 64");
  ExpectRefused(WithKey("llama.attention.head_count_kv", 0), "KV head count is 0");
  ExpectRefused(WithKey("llama.attention.head_count_kv", 2), "is no multiple of");
  ExpectRefused(WithKey("llama.attention.value_length", 16), "differs from the key length");
  ExpectRefused(WithKey("llama.attention.key_length", 0), "does not divide");
  ExpectRefused(WithKey("llama.context_length", 0), "context length is 0");
  ExpectRefused(WithKey("llama.context_length", 0x80000000u), "context length is 2147483648");
  ExpectRefused(WithKey("llama.block_count", 1000000), "block_count' is 1000000");
  ExpectRefused(WithKey("llama.block_count", 3), "'layers.2.attn_norm' is missing");
  ExpectRefused(WithKey("llama.block_count", 1), "is not part of architecture 'llama'");
  ExpectRefused(WithKey("llama.feed_forward_length", 0), "feed-forward length is 0");
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("llama.rope.dimension_count", 34); }),
                "rotary size exceeds");
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("llama.rope.dimension_count", 7); }),
                "must be even");
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("llama.vocab_size", 99); }), "has 100 rows");
}

TEST(Gguf, Gg15To17Tokens) {
  const auto byte_token = [](const std::string& text) {
    GgufWriter w = RandomLlama({}, 1);
    std::vector<std::string> tokens(100, "t");
    tokens[7] = text;
    std::vector<int32_t> types(100, 1);
    types[7] = 6;
    w.Strings("tokenizer.ggml.tokens", tokens);
    w.I32s("tokenizer.ggml.token_type", types);
    return w.Build();
  };
  EXPECT_TRUE(Check(byte_token("<0x0A>")).ok());
  for (const char* text : {"<0x-1>", "<0xZZ>", "<0x", "<0x0A", "<0x0A>>", "", "0x0A"}) {
    ExpectRefused(byte_token(text), "is no byte token");
  }
  ExpectRefused(Changed([](GgufWriter& w) {
                  w.Key("tokenizer.ggml.precompiled_charsmap", 9,
                        GgufWriter::Bytes<uint32_t>(0) + GgufWriter::Bytes<uint64_t>(3) + "abc");
                }),
                "charsmap' is not supported");
  // Llama 3 lists several merges of a token: 280,147 for 128,256.
  const auto merges = [](size_t count) {
    return Changed([count](GgufWriter& w) {
      w.Strings("tokenizer.ggml.merges", std::vector<std::string>(count, "a b"));
    });
  };
  EXPECT_TRUE(Check(merges(219)).ok());
  EXPECT_TRUE(Check(merges(800)).ok());
  ExpectRefused(merges(801), "has 801 entries for 100 tokens");
  GgufWriter w = RandomLlama({}, 1);
  std::vector<std::string> tokens(100, "t");
  tokens[1] = std::string("a\0b", 3);
  tokens[2] = "\xff\xfe";
  tokens[3] = "";
  w.Strings("tokenizer.ggml.tokens", tokens);
  EXPECT_TRUE(Check(w.Build()).ok());
  w = RandomLlama({}, 1);
  tokens[4] = std::string(1 << 20, 'x');
  w.Strings("tokenizer.ggml.tokens", tokens);
  ExpectRefused(w.Build(), "[4] has 1048576 bytes");
}

TEST(Gguf, WhatWouldChangeTheAnswerIsRefusedByName) {
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("llama.expert_count", 8); }),
                "key 'llama.expert_count' is not supported");
  EXPECT_TRUE(Check(Changed([](GgufWriter& w) { w.U32("llama.expert_count", 0); })).ok());
  ExpectRefused(Changed([](GgufWriter& w) { w.F32("llama.logit_scale", 0.5f); }), "logit_scale");
  ExpectRefused(Changed([](GgufWriter& w) { w.String("llama.rope.scaling.type", "su"); }),
                "is 'su'");
  ExpectRefused(Changed([](GgufWriter& w) { w.U32("split.count", 2); }),
                "the first of 2 parts, and 1 are there");
  ExpectRefused(
      Changed([](GgufWriter& w) { w.Tensor("blk.0.attn_q.bias", {96}, 0, std::string(384, 'x')); }),
      "tensor 'layers.0.k_bias' is missing");
  GgufWriter other;
  other.String("general.architecture", "mamba");
  ExpectRefused(other.Build(), "architecture 'mamba' is not supported (llama, ");
  // Names are shown escaped and cut.
  ExpectRefused(Changed([](GgufWriter& w) { w.Tensor("a\nb\x1b", {4}, 99, "x"); }), "'a\\nb\\x1b'");
}

TEST(Gguf, FilesThatAreNone) {
  const auto open = [](const std::string& path) { return ModelFile::Open(path).status(); };
  EXPECT_EQ(open("/nonexistent/x.gguf").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(open("/tmp").message()), HasSubstr("/tmp/config.json: cannot open"));
  EXPECT_THAT(std::string(open("/dev/null").message()), HasSubstr("not a regular file"));
  const std::string path = ::testing::TempDir() + "/gguf_test_empty.gguf";
  testing::WriteFile(path, "");
  EXPECT_THAT(std::string(open(path).message()), HasSubstr("empty"));
  std::remove(path.c_str());
}

}  // namespace
}  // namespace millrace::model
