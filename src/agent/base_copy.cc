#include "agent/base_copy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "store/hash.h"
#include "sys/file.h"
#include "sys/mounts.h"
#include "sys/process.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Not copied: what the kernel or the sandbox provides, and what is nobody's to keep.
constexpr std::array<std::string_view, 5> kEmptyFolders = {"proc", "sys", "dev", "run", "tmp"};
// In a container these are mounts of their own, which a copy of one filesystem leaves out.
constexpr std::array<std::string_view, 3> kMountedFiles = {"etc/hosts", "etc/resolv.conf",
                                                           "etc/hostname"};

// Changes with every new container: its root has layers of its own.
Result<std::string> root_identity() {
  BATON_TRY(auto mounts, sys::read_mounts());
  std::string identity;
  for (const sys::Mount& mount : mounts)
    if (mount.target == "/") identity = store::hash_bytes(mount.super_options);
  return identity;
}

Status run(std::vector<std::string> argv) {
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  sys::SpawnRequest request;
  request.program = "/bin/cp";
  request.argv = std::move(argv);
  request.env = {"PATH=/usr/bin:/bin", "LC_ALL=C"};
  request.fds = {{null.get(), 0}, {2, 1}, {2, 2}};
  BATON_TRY(sys::Spawned child, sys::spawn(request));
  int status = 0;
  while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(ErrorCode::Internal, "cp failed, see above");
}

Status copy_root(const fs::path& base) {
  std::vector<std::string> argv = {"cp", "-a", "--one-file-system", "--reflink=auto", "--"};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/", error)) {
    const std::string name = entry.path().filename();
    if (std::ranges::find(kEmptyFolders, name) == kEmptyFolders.end()) argv.push_back(entry.path());
  }
  if (error) return fail_errno("list /", error.value());
  argv.push_back(base.string() + "/");
  BATON_CHECK(run(std::move(argv)));
  for (std::string_view name : kEmptyFolders) {
    BATON_CHECK(sys::make_directories(base / name, 0755));
  }
  if (::chmod((base / "tmp").c_str(), 01777) != 0) return fail_errno("chmod tmp");
  for (std::string_view name : kMountedFiles)
    if (auto content = sys::read_file(fs::path("/") / name, 1 << 20)) {
      BATON_TRY(Fd file, sys::open_file(base / name, O_WRONLY | O_CREAT | O_TRUNC, 0644));
      BATON_CHECK(sys::write_all(file.get(), *content));
    }
  return {};
}

}  // namespace

Status check_data_directory(const fs::path& data) {
  BATON_TRY(bool overlay, sys::is_on_overlay(data));
  if (!overlay) return {};
  return fail(ErrorCode::Unfit,
              fmt::format("{} is on an overlay filesystem, which can't hold jobs: give --data a "
                          "volume or a host directory (docker run -v baton:{})",
                          data.string(), data.string()));
}

Result<fs::path> prepare_base(const fs::path& data) {
  BATON_TRY(bool overlay, sys::is_on_overlay("/"));
  if (!overlay) return fs::path("/");
  const fs::path base = data / "base";
  const fs::path marker = data / "base.complete";
  BATON_TRY(std::string identity, root_identity());
  if (sys::read_file(marker).value_or("") == identity) return base;
  const std::int64_t began_ms = boot_time_ms();
  spdlog::info("the root is an overlay (a container): copying it to {} once", base.string());
  BATON_CHECK(sys::remove_tree(marker));
  BATON_CHECK(sys::remove_tree(base));
  BATON_CHECK(sys::make_directories(base, 0755));
  BATON_CHECK_CTX(copy_root(base), fmt::format("copy the root to {}", base.string()));
  BATON_CHECK(sys::write_file_durable(marker, identity));
  spdlog::info("copied in {} ms", boot_time_ms() - began_ms);
  return base;
}

}  // namespace baton::agent
