// The packs of a checkpoint that is being restored. Internal to the engine.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "store/pack.h"
#include "store/page_map.h"

namespace baton::agent {

// Thread-compatible.
class OpenPacks {
 public:
  // `folder`: that of the checkpoint's packs; not needed any more for those that were opened.
  explicit OpenPacks(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // Opens it when it is first asked for. Damaged: names the pack.
  Result<store::PackReader*> get(const std::string& hash);
  // All that the map points into.
  Status open_all(const store::PageMap& map);
  // Reads every page that the map names and looks whether it is the one that was stored. Damaged:
  // says which is not. Cancelled: given up.
  Status prove(const store::PageMap& map, const std::stop_token& given_up);
  // The packs opened so far once more, for another thread; what was read of them is shared.
  OpenPacks another() const;

 private:
  std::filesystem::path folder_;
  std::map<std::string, std::unique_ptr<store::PackReader>> readers_;
};

}  // namespace baton::agent
