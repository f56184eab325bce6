// One conversation with one `criu swrk` worker.
//
//   Baton                         CRIU
//   DUMP / RESTORE (options)  ->
//                             <-  NOTIFY pre-dump, network-lock, … post-dump, network-unlock
//   NOTIFY success            ->      (each waits for its answer; the job is frozen meanwhile)
//                             <-  DUMP / RESTORE (success, first error)
//
// CRIU lives in the sandbox's pid and mount namespaces: pids and paths given to it are the
// sandbox's. A worker serves one dump or restore. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace criu_rpc {
class Opts;
class Request;
class Response;
}  // namespace criu_rpc

namespace baton::criu {

enum class NetworkLock {
  None,      // connections of a frozen job are not held back
  Nftables,  // through libnftables in CRIU's process; nothing is executed
};

struct SessionOptions {
  // As CRIU sees it; the log is written here too. The path's end must be a symbolic link: CRIU
  // 4.1 insists on reading it as one.
  std::string images_dir;
  std::string log_file;
  NetworkLock network_lock = NetworkLock::None;
  // Of a restore: pages that the images mark as lazy come from whoever listens on
  // lazy-pages.socket in images_dir.
  bool lazy_pages = false;
  // Of a dump: all pages begin to count as clean (soft-dirty, proc_pid_clear_refs(5)) in the
  // instant in which they are dumped. Only where can_track_memory().
  bool track_memory = false;
  // Of such a dump: a folder in images_dir with the last one's inventory.img and pagemap images.
  // Pages that it has and that are still clean are only named, as pagemap_in_parent. Empty: all
  // pages are dumped.
  std::string parent_images;
  // CRIU is killed when it is silent for longer. Time spent in hooks does not count.
  std::chrono::milliseconds silence_limit{120'000};
};

// Called for each notification, by CRIU's name for it, in order. `pid` is set by CRIU for
// "setup-namespaces" and "post-restore" only, else 0. An error makes CRIU undo what it did so far
// (except in "pre-resume" and "post-resume", whose failure CRIU only logs).
using Hook = std::function<Status(std::string_view name, pid_t pid)>;

struct Version {
  int major_number = 0;
  int minor_number = 0;
  int sublevel = 0;
  std::string to_string() const;
};

class Session {
 public:
  // Takes the worker over; it ends when the session does: by itself if it gave its final answer.
  Session(Fd socket, Fd worker_pidfd)
      : socket_(std::move(socket)), pidfd_(std::move(worker_pidfd)) {}
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Result<Version> version();
  // Whether this CRIU can do so on this kernel: SessionOptions::track_memory. Serves nothing after.
  Result<bool> can_track_memory();
  // Dumps the tree under `root_pid` and lets it run again, also when the dump fails.
  Status dump(pid_t root_pid, const SessionOptions& options, const Hook& hook);
  // Restores as a child of the worker's parent; returns the root's pid in the sandbox.
  Result<pid_t> restore(const SessionOptions& options, const Hook& hook);

  // Ends the worker at once and waits until it is gone. Thread-safe.
  void kill_worker();
  // For SIGSTOP and SIGCONT: a stopped worker does nothing more to the tasks. Thread-safe.
  void signal_worker(int number);

  // After a failure: CRIU's own words for it (may be empty, then the log knows), and whether the
  // worker ended without an answer: it then may have left tasks in the middle of something.
  const std::string& criu_message() const { return criu_message_; }
  bool worker_died() const { return worker_died_; }

 private:
  Status send(const criu_rpc::Request& request);
  Result<criu_rpc::Response> receive(std::chrono::milliseconds limit);
  // Sends the request, serves notifications, returns the final answer.
  Result<criu_rpc::Response> converse(const criu_rpc::Request& request,
                                      std::chrono::milliseconds limit, const Hook& hook);

  Fd socket_;
  Fd pidfd_;
  std::string criu_message_;
  bool worker_died_ = false;
  bool answered_ = false;  // finally: the worker has nothing left to do but to exit
};

}  // namespace baton::criu
