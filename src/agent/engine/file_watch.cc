#include "agent/engine/file_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

namespace baton::agent {

Result<FileWatch> FileWatch::create() {
  Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid()) return fail_errno("inotify_init");
  return FileWatch(std::move(inotify));
}

Result<int> FileWatch::add(int file) {
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  // Once: a file that is written all the time must not fill the queue.
  const int watch =
      ::inotify_add_watch(inotify_.get(), path.c_str(), IN_MODIFY | IN_CLOSE_WRITE | IN_ONESHOT);
  if (watch < 0) return fail_errno("watch a private file");
  return watch;
}

void FileWatch::remove(int watch) { ::inotify_rm_watch(inotify_.get(), watch); }

bool FileWatch::drain(const std::function<void(int)>& changed) {
  alignas(inotify_event) char buffer[16 << 10];
  for (;;) {
    const ssize_t size = ::read(inotify_.get(), buffer, sizeof buffer);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN;
    for (const char* at = buffer; at < buffer + size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(at);
      if (event->mask & IN_Q_OVERFLOW) return false;
      changed(event->wd);
      at += sizeof(inotify_event) + event->len;
    }
  }
}

}  // namespace baton::agent
