// The packed cache: what is found is what was packed, and nothing else is ever believed.

#include "model/packed_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/thread_pool.h"
#include "kernels/payload.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using testing::HfModel;
using testing::HfShape;

constexpr uint64_t kPlenty = uint64_t{1} << 30;
const std::atomic<bool> kGoOn{false};
const std::atomic<bool> kStop{true};

using Strips = std::map<std::string, std::vector<std::byte>>;

std::vector<std::byte> Copy(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

std::string ReadFile(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class PackedCacheTest : public ::testing::Test {
 protected:
  PackedCacheTest() : pool_({.workers = 2, .pin = false}) {
    root_ = ::testing::TempDir() + "/packed" + std::to_string(::getpid()) +
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    dir_ = root_ + "/a/cache";
  }
  ~PackedCacheTest() override { fs::remove_all(root_); }

  // A directory of a model in one of the formats.
  std::string Model(const std::string& name, const std::string& format, uint64_t seed = 1,
                    int64_t feed_forward = 96) {
    const std::string path = root_ + "/" + name;
    HfShape shape;
    shape.feed_forward = feed_forward;
    if (format != "F32") shape.type = "F16";
    HfModel model(shape, seed);
    for (const std::string& module : model.Linears()) {
      if (format == "gptq") model.Gptq(module, 4, 32, true);
      if (format == "awq") model.Awq(module, 32);
    }
    const std::map<std::string, std::string> configs = {
        {"gptq", R"({"quant_method":"gptq","bits":4,"group_size":32,"sym":false,"desc_act":true})"},
        {"awq", R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,
                    "version":"gemm"})"}};
    if (const auto it = configs.find(format); it != configs.end()) {
      model.Set("quantization_config", *Json::Parse(it->second));
    }
    model.Write(path);
    return path;
  }

  std::unique_ptr<ModelFile> OpenModel(const std::string& path, HeadType head = HeadType::kSource) {
    auto file = ModelFile::Open(path, head);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }

  std::unique_ptr<PackedCache> OpenCache(uint64_t bytes_max = kPlenty) {
    auto cache = PackedCache::Open({dir_, bytes_max});
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }

  // Loads without the cache; what was packed.
  Strips Pack(const std::string& path, PackedCacheEntry* entry = nullptr,
              HeadType head = HeadType::kSource) {
    kernels::Stream stream(pool_, kernels::ComputeMode::kFast);
    Strips out;
    LoadOptions options;
    options.made = [&](std::string_view name, const kernels::PackedMatrix& matrix) {
      out[std::string(name)] = Copy(matrix.strips());
      if (entry != nullptr) entry->Add(name, matrix);
    };
    const auto loaded = LoadModel(OpenModel(path, head), options, stream);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return out;
  }

  // As a first start does. Returns what was packed, and the file's path.
  Strips Store(PackedCache& cache, const std::string& model, std::string* path = nullptr,
               HeadType head = HeadType::kSource) {
    const auto file = OpenModel(model, head);
    const PackedKey key = PackedKeyOf(*file);
    auto entry = cache.Begin(*file, key, 77);
    EXPECT_TRUE(entry.ok()) << entry.status();
    if (!entry.ok()) return {};
    Strips out = Pack(model, entry->get(), head);
    const absl::Status status = (*entry)->Publish(kGoOn);
    EXPECT_TRUE(status.ok()) << status;
    if (path != nullptr) *path = dir_ + "/" + key.Hex() + ".packed";
    return out;
  }

  absl::StatusOr<std::unique_ptr<PackedFile>> Find(PackedCache& cache, const std::string& model) {
    const auto file = OpenModel(model);
    return cache.Find(*file, PackedKeyOf(*file));
  }

  size_t FilesInCache() {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir_), {}));
  }

  ThreadPool pool_;
  std::string root_, dir_;
};

// Every stored matrix is, byte by byte, the one that is packed again; and so is each of its values.
void ExpectSame(const PackedFile& packed, const Strips& strips, const ModelDescription& model) {
  EXPECT_FALSE(strips.empty());
  for (const auto& [name, bytes] : strips) {
    const kernels::PackedMatrix described = DescribePacked(model, name);
    const auto found = packed.Find(name, described);
    ASSERT_EQ(Copy(found), bytes) << name;
    ASSERT_EQ(reinterpret_cast<uintptr_t>(found.data()) % 64, 0u);
  }
}

TEST_F(PackedCacheTest, WhatIsFoundIsWhatWasPacked) {
  const auto cache = OpenCache();
  for (const std::string format : {"F32", "F16", "gptq", "awq"}) {
    const std::string model = Model(format, format);
    EXPECT_TRUE(absl::IsNotFound(Find(*cache, model).status()));
    const Strips strips = Store(*cache, model);
    const auto packed = Find(*cache, model);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ((*packed)->content_hash(), 77u);
    EXPECT_TRUE((*packed)->Verify(pool_).ok());
    (*packed)->Populate(pool_);
    auto file = OpenModel(model);
    ExpectSame(**packed, strips, file->description());
    // And the loader takes all of it: it packs nothing.
    kernels::Stream stream(pool_, kernels::ComputeMode::kFast);
    size_t made = 0;
    LoadOptions options;
    options.stored = packed->get();
    options.made = [&](std::string_view, const kernels::PackedMatrix&) { ++made; };
    const auto loaded = LoadModel(std::move(file), options, stream);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(made, 0u);
  }
  EXPECT_EQ(FilesInCache(), 4u);
}

// The values that kernels see, row by row: a view with act-order has the same columns.
TEST_F(PackedCacheTest, AViewHasTheSameValues) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "gptq");
  Store(*cache, model);
  const auto packed = Find(*cache, model);
  ASSERT_TRUE(packed.ok());
  kernels::Stream stream(pool_, kernels::ComputeMode::kFast);
  const auto file = OpenModel(model);
  for (const auto& [name, tensor] : file->description().tensors) {
    if (tensor.matrix.rows == 1) continue;
    const auto fresh = kernels::PackedMatrix::Pack(tensor.matrix, stream);
    ASSERT_TRUE(fresh.ok());
    const auto view = kernels::PackedMatrix::View(
        tensor.matrix, (*packed)->Find(name, DescribePacked(file->description(), name)));
    ASSERT_TRUE(view.ok()) << view.status();
    std::vector<float> a(static_cast<size_t>(fresh->cols())), b(a.size());
    for (int64_t row = 0; row < fresh->rows(); ++row) {
      fresh->UnpackRow(row, a.data());
      view->UnpackRow(row, b.data());
      ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * 4), 0) << name << " row " << row;
    }
  }
}

TEST_F(PackedCacheTest, AnInt8HeadIsAnotherFile) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "gptq");
  std::string plain, int8;
  Store(*cache, model, &plain);
  const Strips strips = Store(*cache, model, &int8, HeadType::kAuto);
  EXPECT_NE(plain, int8);
  const auto file = OpenModel(model, HeadType::kAuto);
  ASSERT_TRUE(file->description().int8_head);
  const auto packed = cache->Find(*file, PackedKeyOf(*file));
  ASSERT_TRUE(packed.ok()) << packed.status();
  ExpectSame(**packed, strips, file->description());
}

TEST_F(PackedCacheTest, TheKeySeesEveryChange) {
  const std::string model = Model("m", "F16");
  const std::string weights = model + "/model.safetensors";
  struct stat info {};
  ASSERT_EQ(::stat(weights.c_str(), &info), 0);
  const timespec times[2] = {info.st_mtim, info.st_mtim};
  const auto key = [&] { return PackedKeyOf(*OpenModel(model)).Hex(); };
  const std::string first = key();
  EXPECT_EQ(key(), first);
  const std::string bytes = ReadFile(weights);
  // The last byte, in a file that is otherwise the same to the nanosecond.
  std::fstream(weights, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(bytes.size()) - 1)
      .put(static_cast<char>(bytes.back() ^ 1));
  ::utimensat(AT_FDCWD, weights.c_str(), times, 0);
  EXPECT_NE(key(), first);
  std::fstream(weights, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(bytes.size()) - 1)
      .put(bytes.back());
  ::utimensat(AT_FDCWD, weights.c_str(), times, 0);
  EXPECT_EQ(key(), first);
  timespec later[2] = {times[0], times[1]};
  later[1].tv_nsec = (later[1].tv_nsec + 1) % 1'000'000'000;
  ::utimensat(AT_FDCWD, weights.c_str(), later, 0);
  EXPECT_NE(key(), first);
  ::utimensat(AT_FDCWD, weights.c_str(), times, 0);
  EXPECT_EQ(key(), first);
  // The same bytes and time in another inode.
  fs::copy_file(weights, weights + ".copy");
  fs::rename(weights + ".copy", weights);
  ::utimensat(AT_FDCWD, weights.c_str(), times, 0);
  EXPECT_NE(key(), first);
}

// Spoils the file at a path. What comes of it: one line that names the file, and packing as ever.
struct Spoiling {
  const char* name;
  std::function<void(const std::string&)> spoil;
  const char* says;
};

std::vector<Spoiling> Spoilings() {
  const auto resize = [](int64_t by) {
    return [by](const std::string& path) {
      fs::resize_file(path, static_cast<uintmax_t>(static_cast<int64_t>(fs::file_size(path)) + by));
    };
  };
  const auto to_size = [](uintmax_t size) {
    return [size](const std::string& path) { fs::resize_file(path, size); };
  };
  const auto mode = [](mode_t bits) {
    return [bits](const std::string& path) { ::chmod(path.c_str(), bits); };
  };
  return {
      {"cut by a byte", resize(-1), "bytes and says"},
      {"cut by a page", resize(-4096), "bytes and says"},
      {"longer", resize(1), "bytes and says"},
      {"empty", to_size(0), "no header"},
      {"half a header", to_size(50), "no header"},
      {"header only", to_size(kPackedHeaderBytes), "bytes and says"},
      {"writable by all", mode(0666), "others have rights"},
      {"writable by the group", mode(0620), "others have rights"},
      {"a link",
       [](const std::string& path) {
         fs::rename(path, path + ".other");
         fs::create_symlink(path + ".other", path);
       },
       "cannot open"},
      {"a directory",
       [](const std::string& path) {
         fs::remove(path);
         fs::create_directory(path);
       },
       "not a regular file"},
      {"a FIFO",
       [](const std::string& path) {
         fs::remove(path);
         ::mkfifo(path.c_str(), 0600);
       },
       "not a regular file"},
      {"noise", [](const std::string& path) { WriteFile(path, std::string(99999, 'x')); },
       "does not begin"},
  };
}

TEST_F(PackedCacheTest, ASpoiledFileIsRefusedAndReplaced) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "F16");
  for (const Spoiling& spoiling : Spoilings()) {
    std::string path;
    const Strips strips = Store(*cache, model, &path);
    spoiling.spoil(path);
    const absl::Status status = Find(*cache, model).status();
    EXPECT_FALSE(status.ok() || absl::IsNotFound(status)) << spoiling.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path)) << spoiling.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(spoiling.says)) << spoiling.name;
    if (spoiling.name == std::string("a directory")) fs::remove(path);  // not ours to replace
    Store(*cache, model);
    const auto again = Find(*cache, model);
    ASSERT_TRUE(again.ok()) << spoiling.name << ": " << again.status();
    ExpectSame(**again, strips, OpenModel(model)->description());
    fs::remove(path);
  }
  if (::geteuid() != 0) return;
  std::string path;
  Store(*cache, model, &path);
  ASSERT_EQ(::chown(path.c_str(), 12345, 12345), 0);
  EXPECT_THAT(std::string(Find(*cache, model).status().message()),
              HasSubstr("belongs to user 12345"));
}

TEST_F(PackedCacheTest, EveryByteOfHeaderAndTableIsWatched) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "F16");
  std::string path;
  const Strips strips = Store(*cache, model, &path);
  const std::string good = ReadFile(path);
  const auto file = OpenModel(model);
  const PackedKey key = PackedKeyOf(*file);
  const size_t front = kPackedHeaderBytes + 96 * strips.size();
  for (size_t i = 0; i < front; ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    const auto bytes = std::as_bytes(std::span(bad)).first(front);
    ASSERT_FALSE(ParsePackedFront(bytes, bad.size(), key).ok()) << "byte " << i;
  }
  ASSERT_TRUE(ParsePackedFront(std::as_bytes(std::span(good)), good.size(), key).ok());
  for (size_t size = 0; size < front; ++size) {
    const auto bytes = std::as_bytes(std::span(good)).first(size);
    ASSERT_FALSE(ParsePackedFront(bytes, good.size(), key).ok()) << size << " bytes";
  }
}

TEST_F(PackedCacheTest, ADamagedSectionIsFoundByVerify) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "F16");
  std::string path;
  Store(*cache, model, &path);
  const uint64_t end = fs::file_size(path);
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(end / 4096 / 2 * 4096 + 5))
      .put('\x55');
  auto packed = Find(*cache, model);
  ASSERT_TRUE(packed.ok()) << packed.status();  // not looked at
  const absl::Status status = (*packed)->Verify(pool_);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is damaged"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  cache->Remove(PackedKeyOf(*OpenModel(model)));
  EXPECT_TRUE(fs::exists(path));  // someone has it mapped: we
  packed->reset();
  cache->Remove(PackedKeyOf(*OpenModel(model)));
  EXPECT_FALSE(fs::exists(path));
}

// Recomputes both sums, so that what a lying writer says gets as far as it can.
std::string Sealed(std::string front, size_t sections) {
  const std::span<char> bytes(front);
  const uint32_t table = Crc32c(std::as_bytes(bytes.subspan(kPackedHeaderBytes, 96 * sections)));
  std::memcpy(front.data() + 68, &table, 4);
  const uint32_t header = Crc32c(std::as_bytes(bytes.first(kPackedHeaderBytes - 4)));
  std::memcpy(front.data() + kPackedHeaderBytes - 4, &header, 4);
  return front;
}

// Where things are in the table's records.
constexpr size_t kOffset = 72, kBytes = 80;

// With a stored file, whose header and table are changed and parsed again.
class PackedFrontTest : public PackedCacheTest {
 protected:
  void SetUp() override {
    PackedCacheTest::SetUp();
    const auto cache = OpenCache();
    const std::string model = Model("m", "F16");
    std::string path;
    sections_ = Store(*cache, model, &path).size();
    key_ = PackedKeyOf(*OpenModel(model));
    size_ = fs::file_size(path);
    front_ = ReadFile(path).substr(0, kPackedHeaderBytes + 96 * sections_);
  }
  auto Parse(const std::string& bytes) const {
    return ParsePackedFront(std::as_bytes(std::span(bytes)), size_, key_);
  }

  size_t sections_ = 0;
  PackedKey key_;
  uint64_t size_ = 0;  // of the file
  std::string front_;
};

TEST_F(PackedFrontTest, LiesUnderRightSumsStayInsideTheFile) {
  ASSERT_TRUE(Parse(Sealed(front_, sections_)).ok());
  const auto with = [&](size_t record, size_t at, uint64_t value, size_t width = 8) {
    std::string lie = front_;
    std::memcpy(lie.data() + kPackedHeaderBytes + 96 * record + at, &value, width);
    return Parse(Sealed(lie, sections_)).status();
  };
  EXPECT_THAT(std::string(with(0, kOffset, 4097).message()), HasSubstr("lies at"));
  EXPECT_FALSE(with(0, kOffset, 0).ok());                    // in the header
  EXPECT_FALSE(with(1, kOffset, 4096).ok());                 // upon the one before
  EXPECT_FALSE(with(0, kOffset, ~uint64_t{0} - 4095).ok());  // wraps
  EXPECT_FALSE(with(0, kOffset, size_).ok());                // behind the end
  EXPECT_FALSE(with(0, kBytes, size_).ok());                 // beyond the end
  EXPECT_FALSE(with(0, kBytes, ~uint64_t{0}).ok());          // wraps
  EXPECT_FALSE(with(0, kBytes, 0).ok());
  EXPECT_FALSE(with(0, 0, 0, 1).ok());  // no name
  std::string lie = front_;
  lie.replace(kPackedHeaderBytes, 48, std::string(48, 'n'));  // a name without an end
  EXPECT_THAT(std::string(Parse(Sealed(lie, sections_)).status().message()), HasSubstr("no name"));
  lie = front_;
  lie.replace(kPackedHeaderBytes + 96, 48, front_.substr(kPackedHeaderBytes, 48));
  EXPECT_THAT(std::string(Parse(Sealed(lie, sections_)).status().message()), HasSubstr("twice"));
  lie = front_;
  lie[8] = 9;  // the version of the file
  EXPECT_THAT(std::string(Parse(Sealed(lie, sections_)).status().message()), HasSubstr("version"));
  lie = front_;
  lie[12] = static_cast<char>(kernels::kPackedLayoutVersion + 1);
  EXPECT_THAT(std::string(Parse(Sealed(lie, sections_)).status().message()), HasSubstr("version"));
  lie = front_;
  lie[16] ^= 1;  // the key
  EXPECT_THAT(std::string(Parse(Sealed(lie, sections_)).status().message()),
              HasSubstr("another model"));
  lie = front_;
  const uint32_t many = 0x7fffffff;
  std::memcpy(lie.data() + 64, &many, 4);
  EXPECT_FALSE(Parse(Sealed(lie, sections_)).ok());
}

TEST_F(PackedFrontTest, RandomLiesAreRefusedOrInBounds) {
  std::mt19937_64 random(1);
  size_t accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string lie = front_;
    const size_t edits = 1 + random() % 3;
    for (size_t e = 0; e < edits; ++e) {
      const size_t at = random() % lie.size();
      lie[at] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
    }
    lie = Sealed(lie, sections_);
    const auto table = Parse(lie);
    if (!table.ok()) continue;
    ++accepted;
    for (const auto& item : table->sections) {
      const PackedSection& s = item.second;
      ASSERT_LE(s.offset, size_);
      ASSERT_LE(s.bytes, size_ - s.offset);
      ASSERT_EQ(s.offset % 4096, 0u);
    }
  }
  EXPECT_GT(accepted, 100u);  // of shapes and sums: what Find compares
  EXPECT_LT(accepted, 19000u);
}

// A section of another shape or layout is no match, whatever its name.
TEST_F(PackedCacheTest, FindAsksForTheWholeDescription) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "F16");
  Store(*cache, model);
  const auto packed = Find(*cache, model);
  ASSERT_TRUE(packed.ok());
  const auto file = OpenModel(model);
  kernels::RawMatrix raw = file->description().tensors.find("layers.0.q")->second.matrix;
  EXPECT_FALSE((*packed)->Find("layers.0.q", kernels::PackedMatrix::Describe(raw)).empty());
  EXPECT_TRUE((*packed)->Find("layers.9.q", kernels::PackedMatrix::Describe(raw)).empty());
  raw.type = kernels::WeightType::kBF16;
  EXPECT_TRUE((*packed)->Find("layers.0.q", kernels::PackedMatrix::Describe(raw)).empty());
  raw.type = kernels::WeightType::kF16;
  raw.rows += 16;
  EXPECT_TRUE((*packed)->Find("layers.0.q", kernels::PackedMatrix::Describe(raw)).empty());
}

TEST_F(PackedCacheTest, ADirectoryThatIsNotOursIsRefused) {
  OpenCache();
  struct stat info {};
  ASSERT_EQ(::stat(dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const auto message = [&](const std::string& dir) {
    const auto cache = PackedCache::Open({dir, kPlenty});
    return cache.ok() ? std::string("ok") : std::string(cache.status().message());
  };
  EXPECT_EQ(message(dir_), "ok");
  for (const mode_t mode : {0755u, 0770u, 0701u}) {
    ::chmod(dir_.c_str(), mode);
    EXPECT_THAT(message(dir_), HasSubstr("others have rights"));
  }
  ::chmod(dir_.c_str(), 0700);
  fs::create_directory_symlink(dir_, root_ + "/link");
  EXPECT_THAT(message(root_ + "/link"), HasSubstr("cannot open"));
  EXPECT_THAT(message(root_ + "/link/"), HasSubstr("cannot open"));
  WriteFile(root_ + "/file", "x");
  EXPECT_NE(message(root_ + "/file"), "ok");
  EXPECT_NE(message(root_ + "/file/below"), "ok");
  EXPECT_NE(message("/proc/nothing/here"), "ok");
  EXPECT_NE(message("/"), "ok");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(dir_.c_str(), 12345, 12345), 0);
  EXPECT_THAT(message(dir_), HasSubstr("belongs to user 12345"));
}

TEST_F(PackedCacheTest, TheLongestUnusedGoesFirstAndNeverOneInUse) {
  const std::string a = Model("a", "F16", 1, 512), b = Model("b", "F16", 2, 512),
                    c = Model("c", "F16", 3, 512);
  uint64_t one = 0;
  {
    const auto cache = OpenCache();
    std::string path;
    Store(*cache, a, &path);
    one = fs::file_size(path);
    EXPECT_EQ(one, PackedFileWriter::FileBytes(OpenModel(a)->description()));
  }
  const auto cache = OpenCache(one * 5 / 2);
  // As if it had last been used so long ago: the file system's clock is coarse.
  const auto age = [&](const std::string& model, int seconds) {
    const std::string path = dir_ + "/" + PackedKeyOf(*OpenModel(model)).Hex() + ".packed";
    const timespec then{::time(nullptr) - seconds, 0};
    const timespec times[2] = {then, then};
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0) << path;
  };
  Store(*cache, b);
  age(a, 100), age(b, 50);
  EXPECT_TRUE(Find(*cache, a).ok());  // used after b
  Store(*cache, c);
  EXPECT_TRUE(absl::IsNotFound(Find(*cache, b).status()));
  EXPECT_TRUE(Find(*cache, c).ok());
  const auto in_use = Find(*cache, a);
  ASSERT_TRUE(in_use.ok());
  age(a, 100), age(c, 50);  // used after a, but not in use
  Store(*cache, b);
  EXPECT_TRUE(absl::IsNotFound(Find(*cache, c).status()));
  EXPECT_TRUE(Find(*cache, a).ok());
  // Nothing may go: then nothing comes.
  const auto also_in_use = Find(*cache, b);
  const auto model = OpenModel(c);
  const auto refused = cache->Begin(*model, PackedKeyOf(*model), 1);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_EQ(FilesInCache(), 2u);
  // What can never fit costs no other its place.
  const auto small = OpenCache(one / 2);
  EXPECT_TRUE(absl::IsResourceExhausted(small->Begin(*model, PackedKeyOf(*model), 1).status()));
  EXPECT_EQ(FilesInCache(), 2u);
}

TEST_F(PackedCacheTest, OneWritesAndAnotherLeavesItAlone) {
  const auto cache = OpenCache(), other = OpenCache();
  const std::string model = Model("m", "F16");
  const auto file = OpenModel(model);
  const PackedKey key = PackedKeyOf(*file);
  {
    const auto entry = cache->Begin(*file, key, 1);
    ASSERT_TRUE(entry.ok());
    EXPECT_TRUE(absl::IsAborted(other->Begin(*file, key, 1).status()));
    EXPECT_TRUE(absl::IsNotFound(other->Find(*file, key).status()));
    Pack(model, entry->get());
    EXPECT_TRUE(absl::IsCancelled((*entry)->Publish(kStop)));
  }
  EXPECT_EQ(FilesInCache(), 0u);  // nothing was published
  {
    const auto entry = cache->Begin(*file, key, 1);
    ASSERT_TRUE(entry.ok());
    Pack(model, entry->get());
    ASSERT_TRUE((*entry)->Publish(kGoOn).ok());
    EXPECT_TRUE(other->Find(*file, key).ok());  // also while the writer lives
  }
  EXPECT_TRUE(absl::IsAborted(other->Begin(*file, key, 1).status()));  // it is there
  EXPECT_EQ(FilesInCache(), 1u);
}

TEST_F(PackedCacheTest, WhatACrashLeftIsTakenOverOrRemoved) {
  const auto cache = OpenCache();
  const std::string model = Model("m", "F16");
  const std::string own = dir_ + "/" + PackedKeyOf(*OpenModel(model)).Hex() + ".tmp";
  const std::string foreign = dir_ + "/" + std::string(64, 'a') + ".tmp";
  const std::string living = dir_ + "/" + std::string(64, 'b') + ".tmp";
  const std::string unknown = dir_ + "/notes.tmp";
  for (const std::string& path : {own, foreign, living, unknown}) {
    WriteFile(path, std::string(1 << 20, 'z'));
  }
  const int fd = ::open(living.c_str(), O_RDONLY);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  EXPECT_TRUE(absl::IsNotFound(Find(*cache, model).status()));
  Store(*cache, model);
  EXPECT_TRUE(Find(*cache, model).ok());
  EXPECT_FALSE(fs::exists(own));
  EXPECT_FALSE(fs::exists(foreign));
  EXPECT_TRUE(fs::exists(living));
  EXPECT_TRUE(fs::exists(unknown));
  ::close(fd);
  // A link in its place is not followed.
  cache->Remove(PackedKeyOf(*OpenModel(model)));
  WriteFile(root_ + "/precious", "precious");
  fs::create_symlink(root_ + "/precious", own);
  Store(*cache, model);
  EXPECT_EQ(ReadFile(root_ + "/precious"), "precious");
  EXPECT_TRUE(Find(*cache, model).ok());
}

// A writer that is killed at any moment leaves a whole file or none that is believed. How long a
// writer takes is measured first; the last one lives.
TEST_F(PackedCacheTest, KilledAtAnyMoment) {
  const std::string model = Model("m", "F16", 1, 4096);
  const Strips strips = Pack(model);
  const auto file = OpenModel(model);
  const PackedKey key = PackedKeyOf(*file);
  const auto write = [&] {
    const pid_t child = ::fork();
    if (child != 0) return child;
    ThreadPool pool({.workers = 1, .pin = false});
    kernels::Stream stream(pool, kernels::ComputeMode::kFast);
    auto cache = PackedCache::Open({dir_, kPlenty});
    auto opened = ModelFile::Open(model);
    if (!cache.ok() || !opened.ok()) ::_exit(2);
    auto entry = (*cache)->Begin(**opened, key, 77);
    if (!entry.ok()) ::_exit(3);
    LoadOptions options;
    options.made = [&](std::string_view name, const kernels::PackedMatrix& matrix) {
      (*entry)->Add(name, matrix);
    };
    if (!LoadModel(*std::move(opened), options, stream).ok()) ::_exit(4);
    ::_exit((*entry)->Publish(kGoOn).ok() ? 0 : 5);
  };
  constexpr int kKills = 40;
  int whole = 0, none = 0;
  const RealClock clock;
  MonoNanos full = 0;
  for (int i = 0; i <= kKills; ++i) {
    const MonoNanos begin = clock.Now();
    const pid_t child = write();
    if (i > 0 && i < kKills) {
      ::usleep(static_cast<useconds_t>(full * i / (kKills * 1000)));
      ::kill(child, SIGKILL);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (i == 0) full = clock.Now() - begin;
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
    const auto cache = OpenCache();
    const auto packed = cache->Find(*file, key);
    if (!packed.ok()) {
      ++none;
      ASSERT_TRUE(absl::IsNotFound(packed.status())) << packed.status();
      continue;
    }
    ++whole;
    ASSERT_TRUE((*packed)->Verify(pool_).ok());
    ExpectSame(**packed, strips, file->description());
    fs::remove_all(dir_);
  }
  std::printf("whole %d, none %d\n", whole, none);
  EXPECT_GT(none, 5);
  EXPECT_GT(whole, 1);
}

// The same weights through Forward's door: a GGUF file in blocks.
TEST_F(PackedCacheTest, GgufToo) {
  const auto cache = OpenCache();
  for (const auto type : {kernels::WeightType::kQ4_0, kernels::WeightType::kQ8_0}) {
    testing::LlamaShape shape;
    shape.type = type;
    const std::string path = root_ + "/" + kernels::WeightTypeName(type) + ".gguf";
    testing::WriteFile(path, testing::RandomLlama(shape, 7).Build());
    const Strips strips = Store(*cache, path);
    const auto packed = Find(*cache, path);
    ASSERT_TRUE(packed.ok()) << packed.status();
    ExpectSame(**packed, strips, OpenModel(path)->description());
  }
}

}  // namespace
}  // namespace millrace::model
