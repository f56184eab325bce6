// A checkpoint on its way into the store. Files come one after the other:
//
//   begin_file(); write()…; end_file();   or   link_shared_file();   …   publish()
//
// Destroying it before publish() has succeeded removes every trace, unless what came is to be kept
// for the next one: then its shared files stay until a checkpoint of the job is published. Files
// are fsynced by threads of its own while the next ones arrive, and whatever may be made durable in
// any order is so at once: the filesystem then needs one commit for all of it.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/fd.h"
#include "store/checkpoint_store.h"
#include "store/hash.h"
#include "store/sealed_file.h"

namespace baton::store {

class Upload {
 public:
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  // InvalidArgument: hostile or doubled path, too many files.
  Status begin_file(const std::string& path, std::uint64_t size, std::uint32_t mode);
  // InvalidArgument beyond the announced size; NoSpace when the disk is full.
  Status write(std::string_view data);
  // Damaged when size or hash is not what was announced: it broke on its way.
  Status end_file(const std::string& xxh3_128);
  // `path` names a shared file (see manifest.h) and the store has it. NotFound: it has not (any
  // more); send it.
  Status link_shared_file(const std::string& path, std::uint64_t size, std::uint32_t mode);

  // Returns when the checkpoint is durable under `number`. `info_json`: a JSON object.
  Status publish(CheckpointNumber number, const std::string& info_json);

  // It was broken off, but there is nothing wrong with what came.
  void keep_what_came() { keep_ = true; }

  // Of all files, those that were only linked included.
  std::uint64_t total_bytes() const;
  // Of those that were sent.
  std::uint64_t new_bytes() const { return new_bytes_; }

 private:
  friend class CheckpointStore;
  struct ToSync {
    Fd fd;
    fs::path path;
    const char* step;  // as StoreOptions::observer is told
  };

  Upload(CheckpointStore& store, JobId job, fs::path directory, CheckpointStore::Sharing sharing,
         std::shared_ptr<const JobKey> key);
  fs::path place(const std::string& path) const;
  Status check_new(const std::string& path, std::uint64_t size);
  Status make_parents(const std::string& path);
  void enqueue_sync(ToSync item);
  void sync_loop();
  Status wait_synced();
  Status enqueue_folder(const fs::path& folder, const char* step);
  Status write_manifest(CheckpointNumber number, const std::string& info_json);
  void publish_shared_files();
  void leave_shared_files();

  CheckpointStore& store_;
  const JobId job_;
  const fs::path directory_;
  const CheckpointStore::Sharing sharing_;
  const std::shared_ptr<const JobKey> key_;  // null: nothing is encrypted
  bool published_ = false;
  bool keep_ = false;
  std::vector<StoredFile> files_;
  std::set<std::string> paths_;
  std::set<fs::path> folders_;
  Fd current_;
  std::optional<SealedWriter> sealing_;  // what is current, if it is encrypted
  Hasher hasher_;
  std::uint64_t written_ = 0;
  std::uint64_t new_bytes_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ToSync> to_sync_;
  std::size_t syncing_ = 0;
  bool closing_ = false;
  Status sync_status_;
  std::vector<std::thread> threads_;
};

}  // namespace baton::store
