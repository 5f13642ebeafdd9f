// Any bytes as the header and table of a packed file, with both sums put right, so that the lies
// get as far as they can. What is accepted lies inside the file, section beside section.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/crc32c.h"
#include "model/packed_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using millrace::Crc32c;
  using millrace::model::kPackedHeaderBytes;
  std::string front(reinterpret_cast<const char*>(data), size);
  millrace::model::PackedKey key;
  uint64_t file_bytes = 0;
  if (front.size() >= kPackedHeaderBytes) {
    // The key and the size are those that are asked for; the number of sections is what it says.
    std::memcpy(key.digest.data(), front.data() + 16, 32);
    std::memcpy(&file_bytes, front.data() + 56, 8);
    uint32_t sections = 0;
    std::memcpy(&sections, front.data() + 64, 4);
    const std::span<const char> bytes(front);
    if (sections <= (front.size() - kPackedHeaderBytes) / 96) {
      const uint32_t table =
          Crc32c(std::as_bytes(bytes.subspan(kPackedHeaderBytes, size_t{96} * sections)));
      std::memcpy(front.data() + 68, &table, 4);
    }
    const uint32_t header = Crc32c(std::as_bytes(bytes.first(kPackedHeaderBytes - 4)));
    std::memcpy(front.data() + kPackedHeaderBytes - 4, &header, 4);
  }
  const auto table = millrace::model::ParsePackedFront(std::as_bytes(std::span<const char>(front)),
                                                       file_bytes, key);
  if (!table.ok()) return 0;
  uint64_t total = 0;
  for (const auto& item : table->sections) {
    const millrace::model::PackedSection& s = item.second;
    if (s.offset % 4096 != 0 || s.offset > file_bytes || s.bytes > file_bytes - s.offset) abort();
    total += s.bytes;
  }
  if (total > file_bytes) abort();  // two of them lie upon each other
  return 0;
}
