#pragma once
// CRC-32C (Castagnoli; RFC 3720 section 12.1, polynomial 0x1EDC6F41): finds bytes that a disk or a
// copy has changed. It is no proof against someone who changes them on purpose.

#include <cstddef>
#include <cstdint>
#include <span>

namespace millrace {

// The sum of `bytes` after those whose sum is `before`. By the CPU's instruction where there is
// one: about 9 GB/s.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before = 0);
// The same by a table, a byte at a time: what the other is tested against.
uint32_t Crc32cByTable(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace millrace
