#include "control/checkpoint_memory.h"

#include <algorithm>
#include <cstring>

namespace baton::control {
namespace {

constexpr std::uint64_t kMaxMapBytes = 1u << 30;
constexpr std::uint64_t kPage = store::kPageBytes;

// Null: there is none.
Result<std::unique_ptr<sys::ByteSource>> find(const sys::OpenSource& checkpoint,
                                              const std::string& path) {
  auto source = checkpoint(path);
  if (!source && source.error().code() == ErrorCode::NotFound) return nullptr;
  return source;
}

}  // namespace

Result<CheckpointMemory> CheckpointMemory::open(const sys::OpenSource& checkpoint,
                                                std::uint32_t pid) {
  CheckpointMemory memory;
  memory.checkpoint_ = checkpoint;
  BATON_TRY(const auto dumped, find(checkpoint, "images/" + criu::pagemap_name(pid)));
  if (dumped) {
    BATON_TRY(memory.dumped_, criu::read_pagemap(*dumped));
  }
  BATON_TRY(const auto tracked, find(checkpoint, fmt::format("memory/{}.map", pid)));
  if (tracked) {
    BATON_TRY(std::string bytes, sys::read_source(*tracked, kMaxMapBytes));
    BATON_TRY(memory.tracked_, store::decode_page_map(bytes));
  }
  return memory;
}

std::uint64_t CheckpointMemory::bytes() const {
  std::uint64_t pages = tracked_.pages();
  for (const auto& run : dumped_.runs)
    if (run.flags & criu::pagemap_present) pages += run.pages;
  return pages * kPage;
}

Result<std::string> CheckpointMemory::read(std::uint64_t start, std::uint64_t end) {
  std::string bytes;
  char page[kPage];
  for (std::uint64_t at = start; at < end;) {
    const std::uint64_t skip = at % kPage;
    BATON_TRY(const bool there, read_page(at - skip, page));
    if (!there) break;
    const std::uint64_t count = std::min(kPage - skip, end - at);
    bytes.append(page + skip, count);
    at += count;
  }
  return bytes;
}

// Where CRIU dumped a page, that is the one; else the tracked one.
Result<bool> CheckpointMemory::read_page(std::uint64_t address, char* page) {
  std::uint64_t before = 0;
  for (const auto& run : dumped_.runs) {
    if (!(run.flags & criu::pagemap_present)) continue;
    if (run.address <= address && address < run.end()) {
      if (!dumped_pages_) {
        BATON_TRY(dumped_pages_, checkpoint_("images/" + criu::pages_name(dumped_.pages_id)));
      }
      BATON_CHECK(dumped_pages_->read(page, kPage, before * kPage + (address - run.address)));
      return true;
    }
    before += run.pages;
  }
  for (const auto& run : tracked_.runs) {
    if (address < run.address || address >= run.address + run.pages * kPage) continue;
    if (run.pack == store::kZeroPages) {
      std::memset(page, 0, kPage);
      return true;
    }
    auto& pack = packs_[run.pack];
    if (!pack) {
      BATON_TRY(pack, store::PackReader::open(sys::sources_below(checkpoint_, "packs/"),
                                              tracked_.packs[run.pack].hash));
    }
    const auto number = static_cast<std::uint32_t>(run.first + (address - run.address) / kPage);
    BATON_CHECK(pack->read(number, 1, page));
    return true;
  }
  return false;
}

}  // namespace baton::control
