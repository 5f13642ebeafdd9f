#include "cli/packed_start.h"

#include <string>
#include <utility>

#include "base/log.h"

namespace millrace::cli {

PackedStart::PackedStart(const ServeOptions& options, const model::ModelFile& file)
    : verify_(options.packed_cache_verify) {
  if (options.packed_cache.empty()) return;
  result_ = "miss";
  auto cache = model::PackedCache::Open({options.packed_cache, options.packed_cache_bytes});
  if (!cache.ok()) {
    Refuse(cache.status());
    return;
  }
  cache_ = *std::move(cache);
  key_ = model::PackedKeyOf(file);
  auto found = cache_->Find(file, key_);
  if (found.ok()) {
    found_ = *std::move(found);
    content_hash_ = found_->content_hash();
    result_ = "hit";
  } else if (!absl::IsNotFound(found.status())) {
    Refuse(found.status());
  }
}

PackedStart::~PackedStart() {
  stop_ = true;
  if (publisher_.joinable()) publisher_.join();
}

void PackedStart::Refuse(const absl::Status& status) {
  result_ = "refused";
  const std::string reason(status.message());
  Log(LogLevel::kWarning, "packed cache: not used", {{"reason", std::string_view(reason)}});
}

uint64_t PackedStart::ContentHash(const model::ModelFile& file) {
  if (content_hash_ == 0) content_hash_ = file.ContentHash();
  return content_hash_;
}

void PackedStart::Prepare(const model::ModelFile& file, ThreadPool& pool,
                          model::LoadOptions* load) {
  if (cache_ == nullptr) return;
  if (found_ != nullptr) {
    const bool locked = found_->Populate(pool);
    const absl::Status status = verify_ ? found_->Verify(pool) : absl::OkStatus();
    if (status.ok()) {
      Log(LogLevel::kInfo, "packed cache: hit",
          {{"bytes", static_cast<int64_t>(found_->bytes())},
           {"locked", locked},
           {"verified", verify_}});
      load->stored = found_.get();
      return;
    }
    // What it said of the files was checked with its header, but now nothing of it is believed.
    content_hash_ = file.ContentHash();
    found_.reset();
    cache_->Remove(key_);
    Refuse(status);
  }
  auto entry = cache_->Begin(file, key_, ContentHash(file));
  if (!entry.ok()) {
    Refuse(entry.status());
    return;
  }
  entry_ = *std::move(entry);
  load->made = [this](std::string_view name, const kernels::PackedMatrix& matrix) {
    entry_->Add(name, matrix);
  };
}

void PackedStart::Publish() {
  if (entry_ == nullptr) return;
  publisher_ = std::thread([this] {
    const absl::Status status = entry_->Publish(stop_);
    entry_.reset();  // its lock with it
    if (status.ok()) {
      Log(LogLevel::kInfo, "packed cache: written for the next start");
    } else if (!stop_) {
      const std::string reason(status.message());
      Log(LogLevel::kWarning, "packed cache: not written", {{"reason", std::string_view(reason)}});
    }
  });
}

}  // namespace millrace::cli
