// The packs of a checkpoint that is being restored. Internal to the engine.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "agent/engine/ready_packs.h"
#include "base/result.h"
#include "store/pack.h"
#include "store/page_map.h"

namespace baton::agent {

// Thread-compatible; objects that were made by another() may each be used by a thread of its own.
class OpenPacks {
 public:
  // `folder`: that of the checkpoint's packs; not needed any more for those that are held.
  // `ready`: some of them, decompressed; may be null.
  explicit OpenPacks(const std::filesystem::path& folder,
                     std::shared_ptr<const ReadyPacks> ready = nullptr);
  ~OpenPacks();
  OpenPacks(OpenPacks&&) noexcept;
  OpenPacks& operator=(OpenPacks&&) noexcept;

  // Keeps all files open that the map points into. Their indexes, which are large, are read when
  // they are needed. Damaged: names the pack.
  Status hold_all(const store::PageMap& map);
  // Damaged: names the pack.
  Result<store::PackReader*> get(const std::string& hash);
  // Reads every page that the map names and looks whether it is the one that was stored. Damaged:
  // says which is not. Cancelled: given up.
  Status prove(const store::PageMap& map, const std::stop_token& given_up);
  // The same packs for another thread; what was and will be read of their indexes is shared.
  OpenPacks another() const;

 private:
  struct Shared;
  explicit OpenPacks(std::shared_ptr<Shared> shared);

  std::shared_ptr<Shared> shared_;
  std::map<std::string, std::unique_ptr<store::PackReader>> readers_;
};

}  // namespace baton::agent
