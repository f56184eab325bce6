// Reads the few things Baton wants to know from CRIU's images.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::criu {

// A file or directory that some process has open, mapped, as its executable, working directory
// or root, by its path in the sandbox.
struct ImageFile {
  std::string path;
  std::uint64_t size_bytes = 0;
  bool has_size = false;
  std::uint32_t mode = 0;  // 0: not recorded
};

struct ImageProcess {
  pid_t pid = 0;
  pid_t parent = 0;
  std::vector<pid_t> threads;  // the leader's id is among them
};

struct ImageSummary {
  std::vector<ImageProcess> processes;
  std::vector<ImageFile> files;    // those that exist under a name; deleted ones are in the images
  std::set<std::string> features;  // kinds of objects: "unix-socket", "shared-memory" …
};

// Damaged when an image is missing, cut short or not CRIU's.
Result<ImageSummary> summarize_images(const std::filesystem::path& directory);

// Corrects what CRIU 4.2 writes down in a way that it does not restore as it was. Damaged as above.
//
// A periodic timerfd that has expired and was not read yet shows no time to its next expiration
// (the kernel works that out when it is read), and CRIU takes that for a timer at rest: restored,
// it would never fire again. And CRIU adds only the seconds of the clock to an absolute timer, so
// it would fire up to a second early.
Status mend_timers(const std::filesystem::path& directory);

// Takes from every thread the capabilities that are not in `given` (a bit for each), which CRIU
// could not give back here: it would fail. Images that have to change are replaced, not written to.
// Returns what was taken from any of them. Damaged as above.
Result<std::uint64_t> limit_capabilities(const std::filesystem::path& directory,
                                         std::uint64_t given);

}  // namespace baton::criu
