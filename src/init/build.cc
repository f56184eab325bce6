#include "init/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "init/util.h"

namespace baton::init {
namespace {

constexpr std::size_t kMostBinds = 512;
constexpr std::size_t kMostArguments = 5;

struct Verb {
  const char* name;
  std::size_t arguments;
};

constexpr Verb kVerbs[] = {{"overlay", 4}, {"bind", 3},  {"root", 1},     {"mkdir", 2},
                           {"symlink", 2}, {"mount", 5}, {"hostname", 1}, {"lease", 1}};

struct Step {
  const char* verb = nullptr;
  const char* argument[kMostArguments] = {};

  bool is(const char* name) const { return strcmp(verb, name) == 0; }
};

// A source of a bind mount, taken from the node's tree before it goes out of sight.
struct Source {
  int fd = -1;
  bool folder = false;
};

class Builder {
 public:
  Builder(Built* built, Report* report) : built_(built), report_(report) {}

  bool run(const char* data, std::size_t size) {
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return failed("make mounts private", "/");
    return walk(data, size, &Builder::outside) && walk(data, size, &Builder::inside);
  }

  bool failed(const char* what, const char* detail) {
    report_->error_number = errno;
    snprintf(report_->text, sizeof report_->text, "%s %s", what, detail);
    return false;
  }

 private:
  bool walk(const char* data, std::size_t size, bool (Builder::*execute)(const Step&)) {
    Records records(data, size);
    while (const char* name = records.next()) {
      Step step;
      step.verb = name;
      const Verb* verb = nullptr;
      for (const Verb& candidate : kVerbs)
        if (step.is(candidate.name)) verb = &candidate;
      errno = EINVAL;
      if (verb == nullptr) return failed("unknown configuration verb", name);
      for (std::size_t i = 0; i < verb->arguments; ++i) {
        step.argument[i] = records.next();
        if (step.argument[i] == nullptr) return failed("configuration ends within", name);
      }
      if (!(this->*execute)(step)) return false;
    }
    return true;
  }

  bool outside(const Step& step) {
    if (step.is("overlay")) return overlay(step);
    if (step.is("bind")) return take_source(step);
    if (step.is("root")) return enter_root(step.argument[0]);
    return true;
  }

  bool overlay(const Step& step) {
    const char* target = step.argument[0];
    const char* fallback = step.argument[3];
    struct stat status {};
    if (stat(target, &status) != 0 && !make_directories(target, 0755))
      return failed("make the mount point", target);
    if (step.argument[1][0] == 0) return show_read_only(fallback, target);
    if (mount("baton", target, "overlay", 0, step.argument[1]) == 0) return true;
    log_line("overlay on %s with %s: %s; trying without index", target, step.argument[1],
             strerror(errno));
    if (mount("baton", target, "overlay", 0, step.argument[2]) == 0) return true;
    if (fallback[0] == 0) return failed("mount an overlay:", step.argument[2]);
    log_line("overlay on %s: %s; it is shown read-only instead", target, strerror(errno));
    return show_read_only(fallback, target);
  }

  bool show_read_only(const char* source, const char* target) {
    const int fd = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
      log_line("%s was unmounted meanwhile; left out", source);
      return true;
    }
    if (fd < 0 || !attach(fd, target, true)) return failed("bind", source);
    close(fd);
    return true;
  }

  bool take_source(const Step& step) {
    if (source_count_ == kMostBinds) {
      errno = E2BIG;
      return failed("too many bind mounts at", step.argument[0]);
    }
    Source& source = sources_[source_count_];
    source.fd =
        open_tree(AT_FDCWD, step.argument[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    struct stat status {};
    if (source.fd < 0 || fstat(source.fd, &status) != 0) return failed("bind", step.argument[0]);
    source.folder = S_ISDIR(status.st_mode);
    ++source_count_;
    return true;
  }

  bool enter_root(const char* directory) {
    if (chdir(directory) != 0) return failed("enter", directory);
    if (syscall(SYS_pivot_root, ".", ".") != 0) return failed("pivot_root to", directory);
    if (umount2(".", MNT_DETACH) != 0) return failed("detach", "the node's root");
    if (chdir("/") != 0) return failed("enter", "/");
    return true;
  }

  bool inside(const Step& step) {
    const auto& argument = step.argument;
    if (step.is("bind")) return bind(step);
    if (step.is("mount")) return mount_inside(step);
    if (step.is("mkdir"))
      return make_directories(argument[0], static_cast<unsigned>(strtoul(argument[1], nullptr, 8)))
                 ? true
                 : failed("mkdir", argument[0]);
    if (step.is("symlink"))
      return symlink(argument[0], argument[1]) == 0 || errno == EEXIST
                 ? true
                 : failed("symlink", argument[1]);
    if (step.is("hostname"))
      return sethostname(argument[0], strlen(argument[0])) == 0
                 ? true
                 : failed("set hostname", argument[0]);
    if (step.is("lease")) built_->lease_deadline_boot_ns = number(argument[0]);
    return true;
  }

  bool attach(int fd, const char* target, bool read_only) {
    if (read_only) {
      struct mount_attr attributes {};
      attributes.attr_set = MOUNT_ATTR_RDONLY;
      if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                  sizeof attributes) != 0)
        return false;
    }
    return move_mount(fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0;
  }

  bool make_file(const char* path) {
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char* slash = strrchr(parent, '/');
    if (slash != nullptr && slash != parent) {
      *slash = 0;
      if (!make_directories(parent, 0755)) return false;
    }
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
    if (fd >= 0) return close(fd) == 0;
    struct stat status {};
    if (stat(path, &status) != 0) return false;
    errno = EISDIR;
    return !S_ISDIR(status.st_mode);
  }

  bool bind(const Step& step) {
    const Source& source = sources_[next_source_++];
    const char* target = step.argument[1];
    if (!(source.folder ? make_directories(target, 0755) : make_file(target)))
      return failed("make the mount point", target);
    if (!attach(source.fd, target, strcmp(step.argument[2], "ro") == 0))
      return failed("bind mount on", target);
    close(source.fd);
    return true;
  }

  bool mount_inside(const Step& step) {
    const char* target = step.argument[1];
    if (!make_directories(target, 0755)) return failed("make the mount point", target);
    if (mount(step.argument[0], target, step.argument[0],
              static_cast<unsigned long>(number(step.argument[2])), step.argument[3]) == 0)
      return true;
    if (strcmp(step.argument[4], "skip") != 0) return failed("mount", target);
    log_line("mount %s on %s: %s; left out", step.argument[0], target, strerror(errno));
    return true;
  }

  Built* built_;
  Report* report_;
  Source sources_[kMostBinds];
  std::size_t source_count_ = 0;
  std::size_t next_source_ = 0;
};

}  // namespace

bool build_sandbox(Built* built, Report* report) {
  static Builder builder(built, report);
  std::size_t size = 0;
  const char* data = map_file(kConfigFd, &size);
  if (data == nullptr) return builder.failed("read the sandbox's configuration", "");
  close(kConfigFd);
  return builder.run(data, size);
}

}  // namespace baton::init
