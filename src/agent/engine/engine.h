// Takes a checkpoint of a running sandbox and brings one back to life in another.
//
// The engine knows nothing about nodes, leases or the controller: it turns a running tree into a
// directory and back. Issue of its own: the tracking engine, which fills the same interface with
// pre-copy rounds (see docs/architecture.md).
//
// Thread-safe, as long as each sandbox and each directory is used by one thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "agent/sandbox.h"
#include "base/result.h"

namespace baton::agent {

// Where the time of a checkpoint went, in order. The job stands still from metadata to resume.
struct CheckpointSteps {
  std::int64_t file_precopy_us = 0;
  std::int64_t precopy_us = 0;   // of memory
  std::int64_t launch_us = 0;    // CRIU's start, and what is noted in case it dies
  std::int64_t metadata_us = 0;  // CRIU stops the tasks and dumps what is not tracked
  std::int64_t overlap_us = 0;   // until what was done beside CRIU is done as well: the last
                                 // scan and copy of tracked memory, private files, attributes
                                 // CRIU forgets
  std::int64_t memory_us = 0;    // what CRIU wrote into the memory to run its own code
  std::int64_t files_us = 0;     // private files, where they are not as they were
  std::int64_t resume_us = 0;    // until CRIU says that all tasks run
  std::int64_t completion_us = 0;
  std::uint64_t precopied_pages = 0;
  std::uint64_t frozen_pages = 0;  // copied while the job stood still
  std::uint64_t precopied_file_bytes = 0;
  std::uint64_t frozen_file_bytes = 0;  // as frozen_pages; of large private files
  std::uint64_t unread_file_bytes = 0;  // of those that were known not to have changed
};

// A checkpoint on disk, before the store has it:
//   images/            CRIU's images, without memory that was tracked or dumped by soft-dirty
//   memory/<pid>.map   which pages such a process has and where they lie
//   packs/<hash>       the pages; an incremental checkpoint shares packs with those before it
//   tree-<n>.tar       one archive per private tree (pax, with xattrs and hard links)
//   files/<hash>       the content of large private files, in chunks (store/file_content.h)
//   base-files/<hash>  what the job has mapped or open from the base, by content hash; a file that
//                      the store has already (see EngineOptions) may be left out
//   checkpoint.json    everything below, the names of the trees, and the attributes CRIU forgets
struct CheckpointInfo {
  std::uint64_t output_bytes = 0;  // length of the output at that instant
  std::int64_t frozen_us = 0;  // from the first task stopped to the last one running again; of a
                               // held checkpoint: up to the call of while_frozen
  std::int64_t total_us = 0;
  std::uint64_t size_bytes = 0;        // of all that a restore needs
  std::uint64_t memory_bytes = 0;      // tracked, before compression
  std::uint64_t new_memory_bytes = 0;  // of these, packs that no earlier checkpoint has
  std::uint64_t new_file_bytes = 0;    // of private files, chunks that no earlier checkpoint has
  std::uint32_t process_count = 0;
  std::uint32_t thread_count = 0;
  // Kinds of kernel objects in use, comma-separated and sorted ("epoll,file,pipe,threads"). A
  // preflight restore is due when shape_adds() says that the job uses one it has not used before.
  std::string shape;
  // How memory was captured: "tracked", "tracked except process 7 (why)", "soft-dirty: why not
  // tracked" or "full: why".
  std::string memory;
  CheckpointSteps steps;  // not kept on disk
};

// Whether `shape` has a kind that is not in `known`. If so, `known` gets it.
bool shape_adds(std::string& known, const std::string& shape);

// What may be decided while the job stands still. Given to the caller of checkpoint_and_hold.
enum class HoldVerdict {
  Resume,  // the job runs on as if nothing had happened
  Kill,    // it runs elsewhere now
};

struct HeldCheckpoint {
  const CheckpointInfo& info;
  // To be asked before anybody may restore it: what was assumed of the job to make the freeze short
  // is looked at meanwhile, which takes some ms for each GiB. Unavailable: it was wrong, so this
  // checkpoint is void; the verdict does not count then, and another one is taken.
  std::function<Status()> confirm;
};

// Eager: the job runs once all of its memory is back. Lazy: as soon as all else is, and its pages
// follow; until the last one is there, the sandbox dies with this process. Auto: lazy if it is
// much.
enum class RestoreMemory { Auto, Eager, Lazy };

// What restore() needs of a checkpoint and prepare() has begun to read: beside the sandbox's
// making.
class ReadAhead;
class ReadyPacks;

struct RestoreOptions {
  RestoreMemory memory = RestoreMemory::Auto;
  bool leave_stopped_then_kill = false;     // preflight: prove that it restores, never let it run
  std::stop_token given_up;                 // looked at until CRIU begins: Cancelled
  std::shared_ptr<const ReadyPacks> ready;  // packs that need not be decompressed; may be null
  std::shared_ptr<ReadAhead> read_ahead;    // of the plan; null: it is read then
};

// What Sandbox::create() has to be told so that restore() can fill the sandbox.
struct RestorePlan {
  CheckpointInfo info;
  std::string hostname;
  std::vector<std::filesystem::path> overlay_paths;  // for SandboxSpec::overlay_paths
  // For SandboxSpec::populate_uppers: unpacks the overlays' layers and adds what the base of this
  // node lacks or has in another version.
  std::function<Status(const std::vector<std::pair<std::string, std::filesystem::path>>&)>
      populate_uppers;
  std::shared_ptr<ReadAhead> read_ahead;  // for RestoreOptions
};

struct EngineOptions {
  // Copies and hashes of base files, kept from one checkpoint to the next. Made by make_engine();
  // best on the filesystem that checkpoints are written to (hard links instead of copies).
  std::filesystem::path cache_directory;
  // CRIU is killed when it says nothing for longer (time in while_frozen does not count).
  std::chrono::milliseconds criu_silence_limit{120'000};
  // A freeze that lasts longer than freeze_limit, and freeze_limit_per_gib for each GiB that has to
  // be written in it (private files that were not copied before, shared memory, memory that is not
  // tracked), is ended: CRIU is
  // killed, the job runs on and the checkpoint fails with TimedOut. At an instant at which CRIU
  // can't die without harm to the job, its death waits for the next one. Not for a held checkpoint,
  // whose caller has limits of its own.
  std::chrono::milliseconds freeze_limit{2'000};
  std::chrono::milliseconds freeze_limit_per_gib{20'000};
  // Whether written memory is tracked where kernel and program allow it, so that the pause depends
  // on what the program writes; else every checkpoint dumps all memory in the freeze.
  bool track_memory = true;
  // CRIU can dump by soft-dirty here (ProbeReport): then memory that can't be tracked is dumped in
  // full once, and after that what was written since the last dump.
  bool soft_dirty = false;
  // From so much tracked memory on a restore is lazy by itself: below, all of it comes as fast.
  std::uint64_t lazy_restore_bytes = 32u << 20;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // Freezes, dumps into `directory` (made by this call), resumes. On error `directory` is gone and
  // the job runs on, unless the code is Damaged: CRIU was killed in the middle of its work and left
  // the job in a state that can't be trusted; kill it and restore its last checkpoint.
  // TimedOut: the freeze passed its limit; the job runs on.
  // Refused: CRIU can't dump this program (message: what and the cure). CRIU's log of a failed dump
  // stays in the sandbox's directory as criu-dump.log. Nothing is fsynced.
  virtual Result<CheckpointInfo> checkpoint(Sandbox& sandbox,
                                            const std::filesystem::path& directory) = 0;

  // As checkpoint(), but the job stays frozen until `while_frozen` returns; then it resumes or
  // is killed. `directory` is complete when it is called. It is called again with another one if
  // the first was not confirmed. If this process dies meanwhile, CRIU
  // resumes the job unless the sandbox was told to die with its agent.
  virtual Result<CheckpointInfo> checkpoint_and_hold(
      Sandbox& sandbox, const std::filesystem::path& directory,
      const std::function<HoldVerdict(const HeldCheckpoint&)>& while_frozen) = 0;

  // Reads `directory` before a sandbox for it is made. `base` is that of the sandbox to be; its
  // files are compared when populate_uppers is called. Damaged: not a whole checkpoint.
  virtual Result<RestorePlan> prepare(const std::filesystem::path& directory,
                                      const std::filesystem::path& base) = 0;

  // Fills a sandbox that was created as prepare() says (not started) from `directory` and lets it
  // run; it was ready to run when this returns. Damaged, Unfit, or Internal with CRIU's first
  // error; `log_tail` (may be null) receives the end of CRIU's log when it fails. After an error,
  // and after a preflight, the sandbox is killed.
  virtual Result<void> restore(Sandbox& sandbox, const std::filesystem::path& directory,
                               const RestoreOptions& options, std::string* log_tail) = 0;

  // The sandbox was at this checkpoint once: what is in it need not be stored again. For one that
  // an earlier process of ours took it of; restore() does so by itself. Best effort.
  virtual void build_on(Sandbox& sandbox, const std::filesystem::path& directory) = 0;
  // Waits until all memory of a sandbox that was restored lazily is in its place. Checkpoints do so
  // by themselves. An error says why it can't come; the sandbox was ended for it.
  virtual Status finish_restore(Sandbox& sandbox) = 0;
  // Earlier copies of the sandbox's memory and files are not to be trusted: the next checkpoint
  // copies all.
  virtual void copy_anew(Sandbox& sandbox) = 0;
};

Result<std::unique_ptr<Engine>> make_engine(EngineOptions options);

}  // namespace baton::agent
