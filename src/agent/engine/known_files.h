// Which copies of private files are still right. Internal to private_files.h, which explains why.
#pragma once

#include <sys/stat.h>

#include <map>
#include <optional>

#include "agent/engine/file_watch.h"
#include "agent/engine/private_tree.h"
#include "agent/engine/writers.h"
#include "store/file_content.h"

namespace baton::agent {

// The file as it was when it was copied, and what is known since.
struct KnownFile {
  store::FileContent content;
  struct stat copied {};
  std::optional<FileId> inside;  // as the job's mappings name it
  int watch = -1;
  bool unchanged = false;    // the watch was there before the copy was begun, and has not reported
  bool times_tell = false;   // what the watch does not see would have changed its times
  bool provisional = false;  // copied in a freeze of which it is not known how it ends
  std::uint64_t copied_in = 0;  // the number of the checkpoint
  std::uint64_t needed_in = 0;
  std::uint64_t tried_in = 0;  // last copied before the freeze of this checkpoint
  unsigned wasted = 0;         // such copies, in a row, that were of no use in the freeze
};

class KnownFiles {
 public:
  // Watches that have reported are gone.
  void look_for_changes();
  // Puts a watch on a file, and says what it is inside. `file`: open from tree.outside. False: it
  // can't be had.
  bool watch(const PrivateTree& tree, const std::string& path, int file, KnownFile& known);

  KnownFile* find(const FileId& id);
  KnownFile& operator[](const FileId& id) { return files_[id]; }
  template <typename Condition>
  void erase_if(Condition condition) {
    for (auto at = files_.begin(); at != files_.end();) {
      if (!condition(at->second)) {
        ++at;
        continue;
      }
      unwatch(at->second);
      at = files_.erase(at);
    }
  }
  template <typename Visit>
  void for_each(Visit visit) {
    for (auto& [id, known] : files_) visit(id, known);
  }
  void clear();

 private:
  bool add_watch(int seen, const FileId& id, KnownFile& known);
  void unwatch(KnownFile& known);

  std::optional<FileWatch> watches_;
  std::map<FileId, KnownFile> files_;
  std::map<int, FileId> watched_;
};

// Whether the status of a file is still what it was.
bool same_status(const struct stat& a, const struct stat& b);

}  // namespace baton::agent
