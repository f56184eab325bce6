#include "agent/engine/open_packs.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "sys/byte_source.h"

namespace baton::agent {

namespace fs = std::filesystem;

// A pack is a file until it is first read, and then a reader of which each thread gets another.
struct OpenPacks::Shared {
  struct Pack {
    std::unique_ptr<sys::ByteSource> file;
    std::unique_ptr<store::PackReader> reader;
  };

  Shared(const fs::path& folder, std::shared_ptr<const ReadyPacks> decompressed)
      : sources(sys::sources_in(folder)), ready(std::move(decompressed)) {}

  Result<std::unique_ptr<store::PackReader>> reader_of(const std::string& hash) {
    std::lock_guard lock(mutex);
    Pack& pack = packs[hash];
    if (!pack.reader && ready) pack.reader = ready->reader(hash);
    if (!pack.reader) {
      auto source = [&](const std::string& name) -> Result<std::unique_ptr<sys::ByteSource>> {
        return pack.file ? std::move(pack.file) : sources(name);
      };
      BATON_TRY(pack.reader, store::PackReader::open(source, hash));
    }
    return pack.reader->another();
  }

  const sys::OpenSource sources;
  const std::shared_ptr<const ReadyPacks> ready;
  std::mutex mutex;  // guards what follows
  std::map<std::string, Pack> packs;
};

OpenPacks::OpenPacks(const fs::path& folder, std::shared_ptr<const ReadyPacks> ready)
    : OpenPacks(std::make_shared<Shared>(folder, std::move(ready))) {}
OpenPacks::OpenPacks(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
OpenPacks::~OpenPacks() = default;
OpenPacks::OpenPacks(OpenPacks&&) noexcept = default;
OpenPacks& OpenPacks::operator=(OpenPacks&&) noexcept = default;

Status OpenPacks::hold_all(const store::PageMap& map) {
  std::lock_guard lock(shared_->mutex);
  for (const auto& named : map.packs) {
    auto& pack = shared_->packs[named.hash];
    if (!pack.reader && shared_->ready) pack.reader = shared_->ready->reader(named.hash);
    if (pack.file || pack.reader) continue;
    auto file = shared_->sources(named.hash);
    if (!file && file.error().code() == ErrorCode::NotFound)
      return fail(ErrorCode::Damaged, fmt::format("pack {}: missing", named.hash));
    BATON_TRY(pack.file, std::move(file));
  }
  return {};
}

Result<store::PackReader*> OpenPacks::get(const std::string& hash) {
  auto& reader = readers_[hash];
  if (!reader) {
    BATON_TRY(reader, shared_->reader_of(hash));
  }
  return reader.get();
}

Status OpenPacks::prove(const store::PageMap& map, const std::stop_token& given_up) {
  constexpr std::uint64_t kPagesAtOnce = 64;
  std::vector<char> pages(kPagesAtOnce * store::kPageBytes);
  for (const store::MapRun& run : map.runs) {
    if (run.pack == store::kZeroPages) continue;
    BATON_TRY(store::PackReader* const pack, get(map.packs[run.pack].hash));
    for (std::uint64_t at = 0; at < run.pages; at += kPagesAtOnce) {
      if (given_up.stop_requested()) return fail(ErrorCode::Cancelled, "it was given up");
      BATON_CHECK(pack->read(static_cast<std::uint32_t>(run.first + at),
                             static_cast<std::uint32_t>(std::min(kPagesAtOnce, run.pages - at)),
                             pages.data()));
    }
  }
  return {};
}

OpenPacks OpenPacks::another() const { return OpenPacks(shared_); }

}  // namespace baton::agent
