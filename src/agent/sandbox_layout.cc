#include "agent/sandbox_layout.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include "init/protocol.h"
#include "sys/file.h"
#include "sys/mounts.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTreePrefix = "upper@";

bool is_within(const fs::path& path, const fs::path& folder) {
  if (folder.empty()) return false;
  if (folder == "/") return true;
  const std::string& inner = path.native();
  const std::string& outer = folder.native();
  return inner.starts_with(outer) && (inner.size() == outer.size() || inner[outer.size()] == '/');
}

std::string escape(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '-';
    if (plain)
      result += c;
    else
      result += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return result;
}

std::string unescape(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      result +=
          static_cast<char>(std::strtoul(std::string(text.substr(i + 1, 2)).c_str(), nullptr, 16));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

// Filesystems that hold files of people and programs, as opposed to views of the kernel.
bool holds_files(const std::string& type) {
  static const std::set<std::string> types{
      "ext2",  "ext3",     "ext4",  "xfs",      "btrfs",   "f2fs", "bcachefs", "zfs",  "tmpfs",
      "nfs",   "nfs4",     "9p",    "virtiofs", "cifs",    "ceph", "overlay",  "vfat", "exfat",
      "ntfs3", "squashfs", "erofs", "iso9660",  "fuseblk", "jfs",  "reiserfs"};
  return types.contains(type);
}

// Places of the kernel, of this boot, and of other container engines.
bool is_left_out(const fs::path& path) {
  static const std::array<fs::path, 9> places{"/proc",
                                              "/sys",
                                              "/dev",
                                              "/run",
                                              "/var/lib/docker",
                                              "/var/lib/containerd",
                                              "/var/lib/containers",
                                              "/var/lib/kubelet",
                                              "/.baton"};
  for (const fs::path& place : places)
    if (is_within(path, place)) return true;
  return false;
}

fs::path inside(const fs::path& path, const fs::path& base) {
  return base == "/" ? path : "/" / path.lexically_relative(base);
}

fs::path outside(const fs::path& path, const fs::path& base) {
  return base == "/" ? path : base / path.relative_path();
}

OverlayTree overlay_of(const fs::path& path, const SandboxSpec& spec) {
  const std::string name = overlay_tree_name(path);
  const fs::path lower = outside(path, spec.base);
  std::error_code error;
  return {path, fs::is_directory(lower, error) ? lower : spec.directory / "empty", name,
          "work" + name.substr(std::string("upper").size())};
}

Status find_nested(const SandboxSpec& spec, SandboxLayout* layout) {
  BATON_TRY(const auto mounts, sys::read_mounts());
  std::map<fs::path, const sys::Mount*> nested;
  for (const sys::Mount& mount : mounts) {
    if (mount.target == spec.base || !is_within(mount.target, spec.base)) continue;
    if (!holds_files(mount.type) || is_left_out(inside(mount.target, spec.base))) continue;
    if (is_within(mount.target, spec.data_directory) || is_within(mount.target, spec.directory))
      continue;
    nested[mount.target] = &mount;
  }
  for (const auto& [target, mount] : nested) {
    // One that lies hidden under another mount is not what the path shows.
    const auto seen = sys::mount_id_of(target);
    if (!seen || *seen != mount->id) continue;
    const fs::path path = inside(target, spec.base);
    if (mount->read_only || !fs::is_directory(target))
      layout->read_only.push_back(path);
    else
      layout->overlays.push_back(overlay_of(path, spec));
  }
  return {};
}

Status copy_attributes(const fs::path& from, const fs::path& to) {
  struct stat status {};
  if (::stat(from.c_str(), &status) != 0) return fail_errno(from.string());
  if (::chown(to.c_str(), status.st_uid, status.st_gid) != 0 ||
      ::chmod(to.c_str(), status.st_mode & 07777) != 0)
    return fail_errno(to.string());
  return {};
}

class Configuration {
 public:
  template <typename... Field>
  void add(const Field&... field) {
    (add_field(std::string_view(field)), ...);
  }
  std::string text;

 private:
  void add_field(std::string_view field) {
    text += field;
    text += '\0';
  }
};

void add_overlay(const SandboxSpec& spec, const OverlayTree& overlay, Configuration* out) {
  const bool is_root = overlay.path == "/";
  const fs::path target =
      is_root ? spec.directory / "root" : spec.directory / "root" / overlay.path.relative_path();
  const std::string plain =
      fmt::format("lowerdir={},upperdir={},workdir={}", sys::escape_overlay_path(overlay.lower),
                  sys::escape_overlay_path(spec.directory / overlay.tree),
                  sys::escape_overlay_path(spec.directory / overlay.work));
  // inotify watches can be dumped only where files have handles (nfs_export).
  out->add("overlay", target.native(), plain + ",index=on,nfs_export=on,xino=off", plain,
           is_root ? "" : overlay.lower.native());
}

// Outer mounts before inner ones, whichever kind they are of.
void add_filesystems(const SandboxSpec& spec, const SandboxLayout& layout, Configuration* out) {
  std::map<fs::path, const OverlayTree*> in_order;
  for (const OverlayTree& overlay : layout.overlays) in_order[overlay.path] = &overlay;
  for (const fs::path& path : layout.read_only) in_order[path] = nullptr;
  for (const auto& [path, overlay] : in_order) {
    if (overlay != nullptr)
      add_overlay(spec, *overlay, out);
    else
      out->add("overlay", (spec.directory / "root" / path.relative_path()).native(), "", "",
               outside(path, spec.base).native());
  }
}

std::string flags(unsigned long value) { return fmt::format("{}", value); }

void add_kernel_views(const SandboxSpec& spec, Configuration* out) {
  constexpr unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  out->add("mount", "proc", "/proc", flags(safe), "", "");
  out->add("mount", "sysfs", "/sys", flags(safe | MS_RDONLY), "", "skip");
  out->add("mount", "tmpfs", "/dev", flags(MS_NOSUID), "mode=755,size=64k", "");
  for (const char* device : {"null", "zero", "full", "random", "urandom", "tty"})
    out->add("bind", fmt::format("/dev/{}", device), fmt::format("/dev/{}", device), "rw");
  out->add("mount", "devpts", "/dev/pts", flags(MS_NOSUID | MS_NOEXEC),
           "newinstance,ptmxmode=0666,mode=620,gid=5", "");
  out->add("symlink", "pts/ptmx", "/dev/ptmx");
  out->add("symlink", "/proc/self/fd", "/dev/fd");
  out->add("symlink", "/proc/self/fd/0", "/dev/stdin");
  out->add("symlink", "/proc/self/fd/1", "/dev/stdout");
  out->add("symlink", "/proc/self/fd/2", "/dev/stderr");
  out->add("mount", "tmpfs", "/dev/shm", flags(MS_NOSUID | MS_NODEV), "mode=1777", "");
  out->add("mount", "tmpfs", "/run", flags(MS_NOSUID | MS_NODEV), "mode=755", "");
  out->add("mkdir", "/run/lock", "1777");
  const fs::path hidden = inside(spec.data_directory, spec.base);
  if (!spec.data_directory.empty() && is_within(spec.data_directory, spec.base) && hidden != "/")
    out->add("mount", "tmpfs", hidden.native(), flags(safe | MS_RDONLY), "mode=700,size=4k", "");
}

}  // namespace

std::string overlay_tree_name(const fs::path& path) {
  return path == "/" ? "upper" : std::string(kTreePrefix) + escape(path.relative_path().native());
}

std::vector<fs::path> overlay_paths(const std::vector<std::string>& tree_names) {
  std::vector<fs::path> paths;
  for (const std::string& name : tree_names)
    if (name.starts_with(kTreePrefix))
      paths.push_back("/" + unescape(std::string_view(name).substr(kTreePrefix.size())));
  std::ranges::sort(paths);
  return paths;
}

Result<SandboxLayout> plan_layout(const SandboxSpec& spec) {
  std::error_code error;
  if (!fs::is_directory(spec.base, error))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("root filesystem {} is not a directory", spec.base.string()));
  BATON_TRY(const bool base_is_overlay, sys::is_on_overlay(spec.base));
  if (base_is_overlay)
    return fail(ErrorCode::Unfit,
                fmt::format("root filesystem {} is an overlay itself, where CRIU can't find mapped "
                            "files; copy it to another filesystem and name the copy as base",
                            spec.base.string()));
  SandboxLayout layout;
  layout.overlays.push_back(overlay_of("/", spec));
  if (!spec.overlay_paths) {
    BATON_CHECK_CTX(find_nested(spec, &layout), "filesystems below the base");
    return layout;
  }
  for (const fs::path& path : *spec.overlay_paths) {
    if (!path.is_absolute() || path != path.lexically_normal() || path == "/")
      return fail(ErrorCode::Damaged, fmt::format("not a mount point: {}", path.string()));
    layout.overlays.push_back(overlay_of(path, spec));
  }
  return layout;
}

Status make_layout_directories(const SandboxSpec& spec, const SandboxLayout& layout) {
  for (const char* name : {"root", "images", "io", "empty"}) {
    const fs::path folder = spec.directory / name;
    BATON_CHECK(sys::make_directories(folder));
    // Whatever the agent's umask: users of the sandbox come through here.
    if (::chmod(folder.c_str(), 0755) != 0) return fail_errno(folder.string());
  }
  BATON_CHECK(sys::open_file(spec.directory / "io/output", O_WRONLY | O_CREAT, 0644));
  for (const OverlayTree& overlay : layout.overlays) {
    BATON_CHECK(sys::make_directories(spec.directory / overlay.tree));
    BATON_CHECK(sys::make_directories(spec.directory / overlay.work));
    BATON_CHECK(copy_attributes(overlay.lower, spec.directory / overlay.tree));
  }
  return {};
}

std::vector<std::pair<std::string, fs::path>> upper_trees(const fs::path& directory,
                                                          const SandboxLayout& layout) {
  std::vector<std::pair<std::string, fs::path>> trees;
  for (const OverlayTree& overlay : layout.overlays)
    trees.emplace_back(overlay.tree, directory / overlay.tree);
  return trees;
}

Result<fs::path> find_init_program() {
  if (const char* named = std::getenv("BATON_INIT")) return fs::path(named);
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path() / "baton-init";
  if (fs::exists(beside, error)) return beside;
  return fail(ErrorCode::Unfit,
              fmt::format("{} is missing; it belongs beside baton itself", beside.string()));
}

fs::path find_shim() {
  const auto init = find_init_program();
  if (!init) return {};
  std::error_code error;
  const fs::path shim = init->parent_path() / "criu-shim.so";
  return fs::exists(shim, error) ? shim : fs::path();
}

Result<std::string> init_configuration(const SandboxSpec& spec, const SandboxLayout& layout) {
  BATON_TRY(const fs::path program, find_init_program());
  Configuration out;
  add_filesystems(spec, layout, &out);
  add_kernel_views(spec, &out);
  out.add("bind", program.native(), init::kInitPath, "ro");
  out.add("bind", (spec.directory / "images").native(), init::kImagesPath, "rw");
  out.add("bind", (spec.directory / "io").native(), init::kIoPath, "rw");
  if (!spec.criu_prefix.empty()) out.add("bind", spec.criu_prefix.native(), init::kCriuPath, "ro");
  if (const fs::path shim = find_shim(); !shim.empty())
    out.add("bind", shim.native(), init::kShimPath, "ro");
  for (const Volume& volume : spec.volumes)
    out.add("bind", volume.host_path.native(), volume.sandbox_path.native(),
            volume.read_only ? "ro" : "rw");
  out.add("root", (spec.directory / "root").native());
  out.add("mkdir", init::kQuickImagesPath, "0700");
  out.add("mount", "tmpfs", init::kQuickImagesPath, flags(MS_NOSUID | MS_NODEV | MS_NOEXEC),
          "mode=700", "");
  if (!spec.hostname.empty()) out.add("hostname", spec.hostname);
  out.add("lease", fmt::format("{}", spec.lease_deadline_boot_ns));
  return out.text;
}

}  // namespace baton::agent
