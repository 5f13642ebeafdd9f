// The safetensors reader and the directory around it against files that lie. Rows are those of the
// list of known failures of other readers (ST-01 .. ST-07).

#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "model/hf_checkpoint.h"
#include "model/hf_directory.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::HfModel;
using testing::LittleEndian64;
using testing::SafetensorsWriter;

// On 8-byte aligned memory of exactly the file's size: a sanitizer sees any read beyond it.
absl::Status Check(const std::string& file) {
  std::unique_ptr<std::byte[]> bytes(new std::byte[file.size()]);
  std::memcpy(bytes.get(), file.data(), file.size());
  return ParseSafetensors({bytes.get(), file.size()}, "x.safetensors").status();
}

void ExpectLine(const absl::Status& status, const std::string& says, const std::string& file) {
  EXPECT_FALSE(status.ok()) << "accepted; should say: " << says;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr(says));
  EXPECT_THAT(message, HasSubstr(file));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 600u);
}

void ExpectRefused(const std::string& file, const std::string& says) {
  ExpectLine(Check(file), says, "x.safetensors");
}

std::string WithHeader(std::string header, const std::string& data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return LittleEndian64(header.size()) + header + data;
}

// One tensor "a" whose entry is as given.
std::string Entry(const std::string& type, const std::string& shape, const std::string& offsets,
                  size_t data = 16) {
  return WithHeader(
      "{\"a\":{\"dtype\":" + type + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
      std::string(data, 'x'));
}

SafetensorsWriter Small() {
  SafetensorsWriter w;
  w.Add("a", "F32", {2, 3}, std::string(24, 'a'));
  w.Add("b", "I64", {}, std::string(8, 'b'));
  w.Add("c", "BF16", {4, 0}, "");
  w.Add("d", "U8", {5}, "12345");
  return w;
}

TEST(Safetensors, ReadsWhatItShould) {
  const std::string file = Small().Build();
  const auto tensors = ParseSafetensors(std::as_bytes(std::span(file)), "x.safetensors");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  std::map<std::string, const SafetensorsTensor*> by_name;
  for (const SafetensorsTensor& tensor : *tensors) by_name[tensor.name] = &tensor;
  EXPECT_EQ(by_name["a"]->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(by_name["a"]->type, SafetensorsType::kF32);
  EXPECT_EQ(static_cast<char>(by_name["a"]->data[23]), 'a');
  EXPECT_EQ(by_name["b"]->shape.size(), 0u);
  EXPECT_EQ(static_cast<char>(by_name["b"]->data[0]), 'b');
  EXPECT_EQ(by_name["c"]->data.size(), 0u);
  EXPECT_EQ(static_cast<char>(by_name["d"]->data[4]), '5');
  // Every type by its name and width.
  for (const auto& [name, width] : std::map<std::string, size_t>{
           {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I8", 1}, {"U8", 1}}) {
    SafetensorsWriter w;
    w.Add("t", name, {3}, std::string(3 * width, 'x'));
    EXPECT_TRUE(Check(w.Build()).ok()) << name;
    w.Add("t", name, {3}, std::string(3 * width + 1, 'x'));
    EXPECT_FALSE(Check(w.Build()).ok()) << name;
  }
}

TEST(Safetensors, St01HeaderLengths) {
  const std::string body = Small().Build().substr(8);
  for (uint64_t length : {uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7, uint64_t{body.size() + 1},
                          uint64_t{100} << 20}) {
    ExpectRefused(LittleEndian64(length) + body, "the header says");
  }
  ExpectRefused("", "too short");
  ExpectRefused("1234567", "too short");
  ExpectRefused(LittleEndian64(0) + body, "no object");
  ExpectRefused(LittleEndian64(7) + body, "header");
  // A header of all that is allowed, made of white space: refused as it is none, and not slowly.
  ExpectRefused(LittleEndian64(uint64_t{33} << 20) + std::string(size_t{33} << 20, ' '),
                "33554432 are allowed");
}

TEST(Safetensors, St02Headers) {
  const auto header = [](const std::string& text) { return WithHeader(text, ""); };
  ExpectRefused(header("[]"), "no object");
  ExpectRefused(header("{\"a\xff\":{}}"), "not UTF-8");
  ExpectRefused(header("{} {}"), "after the value");
  ExpectRefused(header("{\"a\":1}"), "is no object");
  ExpectRefused(header("{\"__metadata__\":{\"a\":1}}"), "no string");
  ExpectRefused(header("{\"__metadata__\":[]}"), "no object");
  const std::string entry = "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
  ExpectRefused(WithHeader("{\"a\":" + entry + ",\"a\":" + entry + "}", "x"), "duplicate key");
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  ExpectRefused(header(deep), "header: invalid JSON");
  ExpectRefused(header("{\"\":" + entry + "}"), "a name of 0 bytes");
  ExpectRefused(header("{\"" + std::string(600, 'n') + "\":" + entry + "}"), "a name of 600 bytes");
}

TEST(Safetensors, St02AMillionKeys) {
  std::string header = "{";
  for (int i = 0; i < 1'000'000; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  }
  ExpectRefused(WithHeader(header + "}", ""), "more than 65536 keys");
}

TEST(Safetensors, St03Offsets) {
  ExpectRefused(Entry("\"F32\"", "[4]", "[0]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,8,16]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[-16,0]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,16.0]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,1.6e1]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,18446744073709551616]"), "not two counts");
  ExpectRefused(Entry("\"F32\"", "[4]", "[16,0]"), "is the file truncated?");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,17]"), "is the file truncated?");
  ExpectRefused(Entry("\"F32\"", "[4]", "[16,32]"), "is the file truncated?");
  ExpectRefused(Entry("\"F32\"", "[4]", "[18446744073709551600,18446744073709551615]"),
                "is the file truncated?");
  ExpectRefused(Entry("\"F32\"", "[4]", "[0,16]", 20), "at the end of the file");
  ExpectRefused(Entry("\"F32\"", "[4]", "[8,24]", 24), "8 bytes before it belong to no tensor");
  const auto two = [](const std::string& a, const std::string& b) {
    return WithHeader("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
                          "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}",
                      "12345678");
  };
  EXPECT_TRUE(Check(two("[4,8]", "[0,4]")).ok());
  ExpectRefused(two("[0,4]", "[3,7]"), "tensor 'b' overlaps");
  ExpectRefused(two("[0,4]", "[0,4]"), "overlaps");
}

TEST(Safetensors, St04And05Shapes) {
  ExpectRefused(Entry("\"F32\"", "[4611686018427387904,4]", "[0,0]", 0), "the shape overflows");
  ExpectRefused(Entry("\"F32\"", "[4294967296,4294967296]", "[0,0]", 0), "the shape overflows");
  // A dimension of zero does not hide the others.
  ExpectRefused(Entry("\"F32\"", "[0,9223372036854775807,4]", "[0,0]", 0), "the shape overflows");
  ExpectRefused(Entry("\"F32\"", "[-4]", "[0,16]"), "a dimension is no count");
  ExpectRefused(Entry("\"F32\"", "[4.0]", "[0,16]"), "a dimension is no count");
  ExpectRefused(Entry("\"F32\"", "[\"4\"]", "[0,16]"), "a dimension is no count");
  ExpectRefused(Entry("\"F32\"", "[3]", "[0,16]"), "its shape needs 12");
  ExpectRefused(Entry("\"F32\"", "[0]", "[0,16]"), "its shape needs 0");
  ExpectRefused(Entry("\"F32\"", "[1]", "[0,0]", 0), "its shape needs 4");
  ExpectRefused(Entry("\"F32\"", "4", "[0,16]"), "no shape");
  ExpectRefused(Entry("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), "9 dimensions; at most 8");
  EXPECT_TRUE(Check(Entry("\"F32\"", "[0]", "[0,0]", 0)).ok());
}

// Neither a header of any length nor an odd number of bytes before a wider type is an error.
TEST(Safetensors, DataNeedsNoAlignment) {
  EXPECT_TRUE(Check(WithHeader("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                               "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}",
                               "12345"))
                  .ok());
  SafetensorsWriter w = Small();
  for (size_t over = 0; over < 8; ++over) {
    w.set_header_over(over);
    const std::string file = w.Build();
    const auto tensors = ParseSafetensors(std::as_bytes(std::span(file)), "x.safetensors");
    ASSERT_TRUE(tensors.ok()) << over << ": " << tensors.status();
    EXPECT_EQ(
        file.substr(static_cast<size_t>(
                        reinterpret_cast<const char*>(tensors->front().data.data()) - file.data()),
                    24),
        std::string(24, 'a'));
  }
}

TEST(Safetensors, St06Types) {
  for (const char* type : {"F64", "F8_E4M3", "BOOL", "I16", "U16", "U32", "U64", "f32", "", "F4"}) {
    ExpectRefused(Entry("\"" + std::string(type) + "\"", "[4]", "[0,16]"),
                  "dtype '" + std::string(type) + "' is not supported");
  }
  ExpectRefused(Entry("3", "[4]", "[0,16]"), "no dtype");
  ExpectRefused(WithHeader("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],"
                           "\"more\":1}}",
                           ""),
                "unknown member 'more'");
}

TEST(Safetensors, TruncatedAndAppended) {
  const std::string file = Small().Build();
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(Check(file.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(Check(file + "x").ok());
}

// A directory of its own, removed at the end.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    root_ = fs::path(::testing::TempDir()) /
            ("hf_" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + "_" +
             ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
    fs::create_directories(root_);
    model_ = (root_ / "model").string();
  }
  ~CheckpointTest() override { fs::remove_all(root_); }

  absl::Status Open() const { return HfCheckpoint::Open(model_).status(); }
  void Put(const std::string& name, const std::string& text) const {
    HfModel::WriteText(model_ + "/" + name, text);
  }

  fs::path root_;
  std::string model_;
};

TEST_F(CheckpointTest, OneFileOrShardsAreTheSame) {
  const HfModel model({});
  model.Write(model_);
  const auto one = HfCheckpoint::Open(model_);
  ASSERT_TRUE(one.ok()) << one.status();
  const size_t tensors = (*one)->source().shards[0].tensors.size();
  EXPECT_GT(tensors, 10u);
  fs::remove_all(model_);
  model.Write(model_, 3);
  const auto three = HfCheckpoint::Open(model_);
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_EQ((*three)->files().size(), 3u);
  size_t sum = 0;
  for (const HfShard& shard : (*three)->source().shards) sum += shard.tensors.size();
  EXPECT_EQ(sum, tensors);
  // Any name does when it is the only one; two are a riddle.
  fs::remove_all(model_);
  model.Write(model_);
  fs::rename(model_ + "/model.safetensors", model_ + "/gptq_model-4bit.safetensors");
  EXPECT_TRUE(Open().ok()) << Open();
  fs::copy(model_ + "/gptq_model-4bit.safetensors", model_ + "/other.safetensors");
  ExpectLine(Open(), "2 other .safetensors files instead of one", model_);
}

TEST_F(CheckpointTest, St07Index) {
  const HfModel model({});
  const auto with_map = [&](const std::string& map) {
    fs::remove_all(model_);
    model.Write(model_, 2);
    Put("model.safetensors.index.json", "{\"weight_map\":" + map + "}");
    return Open();
  };
  const std::string index = "model.safetensors.index.json";
  for (const char* name : {"../../x", "/etc/passwd", "", ".", "..", "a/b", "a\\u0000b"}) {
    ExpectLine(with_map("{\"a\":\"" + std::string(name) + "\"}"), "plain name of a file", index);
  }
  ExpectLine(with_map("{\"a\":1}"), "plain name of a file", index);
  ExpectLine(with_map("[]"), "'weight_map' is no list", index);
  ExpectLine(with_map("{}"), "'weight_map' is no list", index);
  ExpectLine(with_map("{\"a\":\"absent.safetensors\"}"), "cannot open", "absent.safetensors");
  ExpectLine(with_map("{\"a\":\"" + HfModel::ShardName(0, 2) + "\"}"), "does not know it",
             HfModel::ShardName(0, 2));
  // One tensor promised elsewhere, one promised and absent.
  fs::remove_all(model_);
  model.Write(model_, 2);
  const std::string second = model_ + "/" + HfModel::ShardName(1, 2);
  HfModel copy({});
  SafetensorsWriter twice;
  for (const auto& [name, tensor] : copy.weights().tensors()) twice.tensors()[name] = tensor;
  HfModel::WriteText(second, twice.Build());
  ExpectLine(Open(), "says another file", HfModel::ShardName(1, 2));
  SafetensorsWriter none;
  none.Add("lm_head.weight", "F32", {1}, "1234");
  HfModel::WriteText(second, none.Build());
  EXPECT_FALSE(Open().ok());
  fs::remove(second);
  ExpectLine(Open(), "cannot open", HfModel::ShardName(1, 2));
}

TEST_F(CheckpointTest, LinksThatLeaveAreRefused) {
  const HfModel model({});
  model.Write(model_);
  const std::string weights = model_ + "/model.safetensors";
  EXPECT_TRUE(Open().ok());
  // Inside: fine.
  fs::rename(weights, model_ + "/real.bin");
  fs::create_symlink("real.bin", weights);
  EXPECT_TRUE(Open().ok()) << Open();
  // Outside, relative or absolute or through a directory that links away: refused.
  fs::rename(model_ + "/real.bin", root_ / "outside.bin");
  for (const fs::path& target : {fs::path("../outside.bin"), root_ / "outside.bin"}) {
    fs::remove(weights);
    fs::create_symlink(target, weights);
    ExpectLine(Open(), "leaves the model's directory", "model.safetensors");
  }
  fs::create_directory_symlink("..", model_ + "/up");
  fs::remove(weights);
  fs::create_symlink("up/outside.bin", weights);
  ExpectLine(Open(), "leaves the model's directory", "model.safetensors");
  // config.json too, and a link to a device.
  fs::remove(weights);
  fs::rename(root_ / "outside.bin", weights);
  fs::remove(model_ + "/config.json");
  fs::create_symlink("/etc/hostname", model_ + "/config.json");
  ExpectLine(Open(), "leaves the model's directory", "config.json");
  fs::remove(model_ + "/config.json");
  fs::create_directory(model_ + "/config.json");
  ExpectLine(Open(), "not a regular file", "config.json");
  fs::remove(model_ + "/config.json");
  ExpectLine(Open(), "cannot open", "config.json");
}

TEST_F(CheckpointTest, TheCacheOfTheHubIsFollowedToItsBlobs) {
  const fs::path snapshot = root_ / "models--a--b" / "snapshots" / "0123abcd";
  const fs::path blobs = root_ / "models--a--b" / "blobs";
  HfModel({}).Write(snapshot.string());
  fs::create_directories(blobs);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::rename(snapshot / name, blobs / (std::string("hash-of-") + name));
    fs::create_symlink("../../blobs/hash-of-" + std::string(name), snapshot / name);
  }
  EXPECT_TRUE(HfCheckpoint::Open(snapshot.string()).ok());
  // Through a link to the snapshot as well: what counts is where the directory really is.
  fs::create_directory_symlink(snapshot, root_ / "latest");
  EXPECT_TRUE(HfCheckpoint::Open((root_ / "latest").string()).ok());
  // Another model's blobs are none of its own.
  const fs::path other = root_ / "models--c--d" / "blobs";
  fs::create_directories(other);
  fs::rename(blobs / "hash-of-model.safetensors", other / "stolen");
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink("../../../models--c--d/blobs/stolen", snapshot / "model.safetensors");
  ExpectLine(HfCheckpoint::Open(snapshot.string()).status(), "leaves the model's directory",
             "model.safetensors");
}

TEST_F(CheckpointTest, ConfigurationsThatAreNone) {
  const HfModel model({});
  model.Write(model_);
  for (const char* text : {"", "[]", "{", "{\"a\":1,\"a\":2}", "null", "{\"a\":\"\xff\"}"}) {
    Put("config.json", text);
    EXPECT_FALSE(Open().ok()) << text;
    EXPECT_THAT(std::string(Open().message()), HasSubstr("config.json")) << text;
  }
  Put("config.json", "{\"a\":" + std::string(9 << 20, ' ') + "1}");
  ExpectLine(Open(), "at most", "config.json");
  ExpectLine(HfCheckpoint::Open(model_ + "/nowhere").status(), "cannot open", "nowhere");
}

}  // namespace
}  // namespace millrace::model
