#pragma once
// What --packed-cache does for one start of the node: finds packed weights, or has them written
// once they are packed. Whatever is wrong with the cache is a line in the log and nothing else.

#include <atomic>
#include <memory>
#include <string_view>
#include <thread>

#include "base/thread_pool.h"
#include "cli/options.h"
#include "model/load_model.h"
#include "model/packed_cache.h"

namespace millrace::cli {

// Outlives the transformer, whose weights it may hold. Thread: one caller; Publish works on a
// thread of its own, which sleeps on the disk and ends when it is done.
class PackedStart {
 public:
  // Looks for the weights of `file`.
  PackedStart(const ServeOptions& options, const model::ModelFile& file);
  ~PackedStart();
  PackedStart(const PackedStart&) = delete;
  PackedStart& operator=(const PackedStart&) = delete;

  // hit; miss: packed now, for the next start; refused: packed, and the log says why; off.
  std::string_view result() const { return result_; }
  // ModelFile::ContentHash, without reading the files where it is known.
  uint64_t ContentHash(const model::ModelFile& file);
  // Sets where LoadModel takes packed weights from, or puts them. With --verify a damaged file
  // turns a hit into "refused".
  void Prepare(const model::ModelFile& file, ThreadPool& pool, model::LoadOptions* load);
  // After LoadModel: makes what was packed available to the next start.
  void Publish();

 private:
  void Refuse(const absl::Status& status);

  const bool verify_;
  std::string_view result_ = "off";
  uint64_t content_hash_ = 0;  // 0: not known yet
  model::PackedKey key_;
  std::unique_ptr<model::PackedCache> cache_;
  std::unique_ptr<model::PackedFile> found_;
  std::unique_ptr<model::PackedCacheEntry> entry_;
  std::atomic<bool> stop_{false};
  std::thread publisher_;
};

}  // namespace millrace::cli
