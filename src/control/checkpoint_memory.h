// Memory of a process in a checkpoint, wherever it is stored.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "criu/image_codec.h"
#include "store/pack.h"
#include "store/page_map.h"
#include "sys/byte_source.h"

namespace baton::control {

class CheckpointMemory {
 public:
  // `checkpoint`: its files. Damaged: names what can't be read.
  static Result<CheckpointMemory> open(const sys::OpenSource& checkpoint, std::uint32_t pid);

  // Pages in the checkpoint.
  std::uint64_t bytes() const;
  // What is there from `start` on, up to `end`: less, where a page is not in the checkpoint.
  Result<std::string> read(std::uint64_t start, std::uint64_t end);

 private:
  // False: no such page.
  Result<bool> read_page(std::uint64_t address, char* page);

  sys::OpenSource checkpoint_;
  criu::PagemapImage dumped_;
  store::PageMap tracked_;
  std::unique_ptr<sys::ByteSource> dumped_pages_;  // null until one is wanted
  std::map<std::uint32_t, std::unique_ptr<store::PackReader>> packs_;
};

}  // namespace baton::control
