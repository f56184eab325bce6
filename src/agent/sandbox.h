// The place one incarnation lives in: pid, mount, uts and ipc namespaces, a private filesystem
// (an overlay over a base), an output file, and a cgroup where one can be made.
//
// Process tree inside (pids are those of the sandbox's own pid namespace):
//
//   1  baton-init          ours, never dumped. Reaps, launches CRIU, holds the lease's deadline
//   │                      itself (CLOCK_BOOTTIME timerfd) and ends with everything when it passes.
//   ├─ 2  baton-init root  subreaper, root of the dumped tree, session leader, own ipc namespace
//   │  └─ 3  the command   and everything it starts; orphans fall to 2, so they stay in the tree
//   └─ …  criu swrk        in this pid, mount, uts and net namespace; its pids are near the top
//
// baton-init outlives the agent. It listens on `control.sock` in the sandbox's directory and
// writes `exit.json` there before it ends, so an agent that was restarted finds out either way.
// The kernel kills everything in the pid namespace when pid 1 goes, CRIU and frozen tasks included.
//
// Threads: a Sandbox is used by one thread at a time, except kill() and set_lease_deadline(),
// which any thread may call at any time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "sys/capabilities.h"

namespace baton::agent {

// What the user asked for. Owned by the job; the same for each of its incarnations.
struct CommandSpec {
  std::vector<std::string> argv;           // argv[0] is looked up in env PATH inside the sandbox
  std::map<std::string, std::string> env;  // exactly this environment, nothing inherited
  std::string workdir = "/";
  std::string user;        // "", "name", "uid", each with an optional ":group"
  std::string stdin_data;  // content of standard input; empty: /dev/null
  std::string hostname;    // uts name inside; the same on every node
  sys::Capabilities capabilities = sys::kJobCapabilities;  // the most that it may have
  bool new_privileges = false;  // programs may have more rights than who runs them (set-user-id)
};

struct Volume {
  std::filesystem::path host_path;
  std::filesystem::path sandbox_path;
  bool read_only = false;
};

struct ResourceLimits {
  std::uint64_t memory_bytes = 0;  // 0: no limit
  double cpus = 0;                 // 0: no limit
};

struct SandboxSpec {
  JobId job;
  Generation generation;
  std::filesystem::path directory;  // state of this incarnation; made by create(), on a filesystem
                                    // that is not an overlay
  std::filesystem::path base;       // "/" or the job's --rootfs
  std::filesystem::path criu_prefix;  // bind-mounted read-only at /.baton/criu
  std::vector<Volume> volumes;
  ResourceLimits limits;
  std::string cgroup_parent;  // "" when this node can't make cgroups
  std::string hostname;
  std::int64_t lease_deadline_boot_ns = 0;  // 0: no lease
  // If set, asked for it when pid 1 is about to start: to fill the private files may take longer
  // than a lease, which is renewed meanwhile.
  std::function<std::int64_t()> newest_lease_deadline;

  // The agent's own folder: shown empty inside, so that no job sees the files of another.
  std::filesystem::path data_directory;
  // Filesystems mounted below the base get overlays of their own. Unset: those of this node.
  // A restore gives overlay_paths(names of the checkpoint's trees), since the tree must be cut
  // in the same places as at the checkpoint.
  std::optional<std::vector<std::filesystem::path>> overlay_paths;
  // Called by create() once the directories of the private overlays exist and before they are
  // mounted: only now may they be filled. Gets (tree name, folder), as private_trees() later.
  std::function<Status(const std::vector<std::pair<std::string, std::filesystem::path>>&)>
      populate_uppers;
  // A file that keeps CRIU's probe of this kernel from one sandbox to the next. Optional.
  std::filesystem::path criu_kdat_cache;
};

// Of the names of a checkpoint's trees those that are overlays below the root, as paths inside.
std::vector<std::filesystem::path> overlay_paths(const std::vector<std::string>& tree_names);

// How an incarnation ended.
struct SandboxExit {
  enum class Kind {
    Exited,  // the command ended by itself (and so did everything it started): code is its own
    Fenced,  // the lease ran out, or its agent went while set_die_with_agent() held
    Killed,  // kill() was called
    Harmed,  // the command ended after CRIU had been killed at its work on it, maybe because of it
    Lost,    // pid 1 vanished without a word (power cut, kill -9 from outside)
  } kind = Kind::Lost;
  int code = 0;  // 128 + signal when a signal ended it
  std::uint64_t output_bytes = 0;
};

// A CRIU service worker running inside a sandbox's namespaces. Speaks criu's RPC on `socket`
// (SOCK_SEQPACKET). Ends when the socket closes or the sandbox does.
struct CriuWorker {
  Fd socket;
  Fd pidfd;
};

// Which ipc namespace CRIU runs in. It dumps or makes one when the tree has another than itself.
enum class CriuIpc {
  Outside,  // that of pid 1
  Tree,     // that of the tree which runs
  Fresh,    // one of its own, which a tree that is restored will share
};

// A reason of its own for a sandbox to end with this process: see Sandbox::guard(). Independent of
// the Sandbox that it came from. Thread-safe. The end of an unreleased guard is the sandbox's.
class SandboxGuard {
 public:
  virtual ~SandboxGuard() = default;
  // Pid 1 holds the descriptor open as well, until release() or its own end. Any process of the
  // sandbox is gone before it closes it.
  virtual Status keep(int fd) = 0;
  virtual Status release() = 0;
  // Ends everything in the sandbox at once.
  virtual void kill() = 0;
};

class Sandbox {
 public:
  // Builds directory, mounts and namespaces and starts pid 1; no command runs yet. On error,
  // nothing is left behind. Unfit: this node can't make it (an overlay as base, no cgroup for the
  // limits asked for); InvalidArgument: a volume or path is wrong; AlreadyExists: `directory` is.
  static Result<std::unique_ptr<Sandbox>> create(const SandboxSpec& spec);
  // Finds a sandbox that an earlier agent process made. NotFound: its pid 1 is gone; ask
  // read_exit() how it ended.
  static Result<std::unique_ptr<Sandbox>> adopt(const std::filesystem::path& directory);
  // How an incarnation that has ended did so. Lost when it left no word.
  static Result<SandboxExit> read_exit(const std::filesystem::path& directory);
  // Removes what an ended incarnation left on disk and its cgroup. FailedPrecondition: it runs.
  static Status remove(const std::filesystem::path& directory);

  virtual ~Sandbox() = default;  // does not stop the incarnation; it outlives the agent

  virtual const SandboxSpec& spec() const = 0;
  virtual std::filesystem::path output_file() const = 0;  // stdout and stderr, on the node
  // Directories whose content belongs to a checkpoint, by name: the overlays' upper layers
  // ("upper", "upper@…") and the tmpfs trees that travel ("dev-shm", "run"), reachable from the
  // agent's mount namespace while the sandbox lives.
  virtual std::vector<std::pair<std::string, std::filesystem::path>> private_trees() const = 0;
  // A folder visible at /.baton/images inside, for CRIU's images; lives outside of the overlay.
  virtual std::filesystem::path images_directory() const = 0;
  // A folder in memory, visible at /.baton/quick inside, where CRIU's shim puts small images. A
  // sandbox that an older agent made has none.
  virtual std::filesystem::path quick_images_directory() const = 0;

  // Starts root and command. An error says why a person's command could not be run (NotFound:
  // no such command) and leaves the sandbox to be killed.
  virtual Status start(const CommandSpec& command) = 0;
  // Declares that CRIU has restored the tree; from now on pid 1 waits for `root_pid` (inner).
  virtual Status adopt_restored(pid_t root_pid, pid_t command_pid) = 0;

  // CRIU's own pids are taken from where none of `keep_free` (inner pids) is near: those of the
  // tree that it is going to restore. Several may be launched one after the other.
  virtual Result<CriuWorker> launch_criu(const std::vector<pid_t>& keep_free = {},
                                         CriuIpc ipc = CriuIpc::Outside) = 0;
  // CRIU was killed and left the tree as it was. Until somebody says so, its end is Harmed.
  virtual Status declare_unharmed() = 0;

  // Pids in the sandbox's pid namespace, and on the node.
  virtual pid_t root_pid_inner() const = 0;
  virtual pid_t command_pid_inner() const = 0;
  virtual pid_t init_pid() const = 0;  // pid 1, as the node sees it
  // Every process of the tree but pid 1 and CRIU: (inner pid, pid on the node), parents first.
  virtual Result<std::vector<std::pair<pid_t, pid_t>>> processes() const = 0;

  virtual Status set_lease_deadline(std::int64_t deadline_boot_ns) = 0;
  // While armed, pid 1 ends the sandbox as soon as its connection to this agent breaks: set when
  // the source of a migration is held frozen and the target may already be running.
  virtual Status set_die_with_agent(bool armed) = 0;
  // The sandbox ends when this process does before the guard was released, whatever
  // set_die_with_agent() says.
  virtual Result<std::unique_ptr<SandboxGuard>> guard() = 0;
  // Sends a signal to the command (not to the whole tree).
  virtual Status signal(int number) = 0;
  // Ends everything at once; returns when the pid namespace is empty.
  virtual Status kill() = 0;
  // Becomes readable when the sandbox has ended; then exit() tells how, and nothing before.
  virtual int ended_fd() const = 0;
  // It has ended, or pid 1 is ending it: what dies in it meanwhile, such as CRIU, dies of that.
  virtual bool is_ending() const = 0;
  virtual std::optional<SandboxExit> exit() const = 0;
};

}  // namespace baton::agent
