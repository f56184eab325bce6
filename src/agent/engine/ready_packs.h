// The memory of a checkpoint that may have to be restored on this node soon, decompressed: its
// pages are put in their places several times as fast. Where there is no room for all of it, what
// was written last, which is wanted first; of the other packs what is in them is known at least,
// for 1/256 of the memory, which is not counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "store/pack.h"

namespace baton::agent {

// Thread-safe: it does not change.
class ReadyPacks {
 public:
  // Of the checkpoint in `directory`, which need not be there any more afterwards (its files stay
  // open); packs that `earlier` (may be null) has as well are shared with it. Takes no more than
  // `budget` bytes. Cancelled: given up. Damaged: names the pack.
  static Result<std::shared_ptr<const ReadyPacks>> make(const std::filesystem::path& directory,
                                                        const ReadyPacks* earlier,
                                                        std::uint64_t budget,
                                                        const std::stop_token& given_up);

  // Null: it is not among them.
  std::unique_ptr<store::PackReader> reader(const std::string& hash) const;
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::map<std::string, std::unique_ptr<store::PackReader>> readers_;
  std::uint64_t bytes_ = 0;
};

}  // namespace baton::agent
