#include <openssl/evp.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/payload.h"
#include "model/packed_file.h"

namespace millrace::model {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kBlocks = 64;                        // sampled of each file
constexpr size_t kHeaderBytesMax = size_t{64} << 20;  // no vocabulary is larger

// Thread: one caller.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    CHECK(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
  }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(std::span<const std::byte> bytes) {
    CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
  }
  // Of fixed width, so that no two lists of numbers are the same bytes.
  void Add(uint64_t number) { Add(std::as_bytes(std::span(&number, 1))); }
  void Add(int64_t number) { Add(static_cast<uint64_t>(number)); }
  void Add(std::string_view text) {
    Add(static_cast<uint64_t>(text.size()));
    Add(std::as_bytes(std::span(text)));
  }
  std::array<uint8_t, 32> Finish() {
    std::array<uint8_t, 32> out{};
    CHECK(EVP_DigestFinal_ex(context_, out.data(), nullptr) == 1);
    return out;
  }

 private:
  EVP_MD_CTX* context_;
};

// The file that bytes lie in, by number, and the offset; files.size() when in none.
struct Place {
  size_t file = 0;
  uint64_t offset = 0;
};
Place PlaceOf(const std::vector<const MappedFile*>& files, const std::byte* at) {
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i]->Contains(at)) return {i, static_cast<uint64_t>(at - files[i]->bytes().data())};
  }
  return {files.size(), 0};
}

void AddFile(const MappedFile& file, uint64_t first_tensor, Sha256* hash) {
  const FileIdentity& identity = file.identity();
  hash->Add(identity.inode);
  hash->Add(identity.mtime_ns);
  hash->Add(identity.bytes);
  const std::span<const std::byte> bytes = file.bytes();
  hash->Add(first_tensor);
  hash->Add(bytes.first(std::min<uint64_t>({first_tensor, bytes.size(), kHeaderBytesMax})));
  const size_t block = std::min(kBlockBytes, bytes.size());
  for (size_t i = 0; i < kBlocks; ++i) {  // the last one ends where the file does
    hash->Add(bytes.subspan((bytes.size() - block) / (kBlocks - 1) * i, block));
  }
  hash->Add(bytes.last(block));
  file.Drop(bytes);
}

void AddTensor(const std::vector<const MappedFile*>& files, const kernels::RawMatrix& matrix,
               Sha256* hash) {
  hash->Add(static_cast<uint64_t>(matrix.type));
  hash->Add(matrix.rows);
  hash->Add(matrix.cols);
  ForEachFilePart(matrix, [&](std::span<const std::byte> part) {
    const Place place = PlaceOf(files, part.data());
    hash->Add(static_cast<uint64_t>(place.file));
    hash->Add(place.offset);
    hash->Add(static_cast<uint64_t>(part.size()));
    if (place.file == files.size()) hash->Add(part);
  });
  const kernels::RawGroups* groups = matrix.groups;
  hash->Add(static_cast<uint64_t>(groups != nullptr));
  if (groups == nullptr) return;
  hash->Add(static_cast<uint64_t>(groups->scale_type));
  hash->Add(static_cast<uint64_t>(groups->symmetric));
  hash->Add(static_cast<uint64_t>(groups->zero_offset));
  hash->Add(static_cast<uint64_t>(groups->zeros != nullptr));
  hash->Add(static_cast<uint64_t>(groups->g_idx != nullptr));
  hash->Add(groups->group_size);
  hash->Add(groups->first_row);
  hash->Add(groups->file_rows);
}

}  // namespace

std::string PackedKey::Hex() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : digest) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

PackedKey PackedKeyOf(const ModelFile& file) {
  const std::vector<const MappedFile*> files = file.files();
  const ModelDescription& description = file.description();
  Sha256 hash;
  hash.Add(std::string_view("millrace packed weights"));
  hash.Add(static_cast<uint64_t>(kernels::kPackedLayoutVersion));
  hash.Add(static_cast<uint64_t>(description.int8_head));
  hash.Add(static_cast<uint64_t>(description.config.tied_embeddings));
  std::vector<uint64_t> first(files.size(), kHeaderBytesMax);
  for (const auto& item : description.tensors) {
    ForEachFilePart(item.second.matrix, [&](std::span<const std::byte> part) {
      const Place place = PlaceOf(files, part.data());
      if (place.file < files.size()) first[place.file] = std::min(first[place.file], place.offset);
    });
  }
  for (size_t i = 0; i < files.size(); ++i) AddFile(*files[i], first[i], &hash);
  for (const auto& [name, tensor] : description.tensors) {
    hash.Add(name);
    AddTensor(files, tensor.matrix, &hash);
  }
  // What a directory says of its tensors is in no file of weights.
  if (file.checkpoint() != nullptr) {
    const HfSource& source = file.checkpoint()->source();
    hash.Add(source.config.Dump());
    hash.Add(source.quantization.Dump());
  }
  PackedKey key;
  key.digest = hash.Finish();
  return key;
}

}  // namespace millrace::model
