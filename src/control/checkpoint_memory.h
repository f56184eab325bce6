// Memory of a process in a checkpoint, wherever it is stored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "criu/image_codec.h"
#include "store/pack.h"
#include "store/page_map.h"

namespace baton::control {

class CheckpointMemory {
 public:
  // `checkpoint`: its folder, as in the store. Damaged: names what can't be read.
  static Result<CheckpointMemory> open(const std::filesystem::path& checkpoint, std::uint32_t pid);

  // Pages in the checkpoint.
  std::uint64_t bytes() const;
  // What is there from `start` on, up to `end`: less, where a page is not in the checkpoint.
  Result<std::string> read(std::uint64_t start, std::uint64_t end);

 private:
  // False: no such page.
  Result<bool> read_page(std::uint64_t address, char* page);

  std::filesystem::path checkpoint_;
  criu::PagemapImage dumped_;
  store::PageMap tracked_;
  std::map<std::uint32_t, std::unique_ptr<store::PackReader>> packs_;
};

}  // namespace baton::control
