#include "sys/ipc_state.h"

#include <fcntl.h>
#include <sched.h>

#include <functional>
#include <thread>

#include "sys/file.h"

namespace baton::sys {
namespace {

constexpr const char* state_files[] = {
    "/proc/sysvipc/msg",
    "/proc/sysvipc/sem",
    "/proc/sysvipc/shm",
    "/proc/sys/kernel/auto_msgmni",
    "/proc/sys/kernel/msgmax",
    "/proc/sys/kernel/msgmnb",
    "/proc/sys/kernel/msgmni",
    "/proc/sys/kernel/sem",
    "/proc/sys/kernel/shm_rmid_forced",
    "/proc/sys/kernel/shmall",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/kernel/shmmni",
    "/proc/sys/fs/mqueue/msg_default",
    "/proc/sys/fs/mqueue/msg_max",
    "/proc/sys/fs/mqueue/msgsize_default",
    "/proc/sys/fs/mqueue/msgsize_max",
    "/proc/sys/fs/mqueue/queues_max",
};

// A namespace belongs to a thread, so one is made that ends with what it entered.
Result<std::string> read_within(const std::function<Status()>& enter) {
  Result<std::string> state;
  std::thread([&] {
    if (auto entered = enter(); !entered) {
      state = fail(std::move(entered).error());
      return;
    }
    for (const char* path : state_files) {
      auto content = read_file(path);
      if (!content && content.error().code() != ErrorCode::NotFound) {
        state = fail(std::move(content).error());
        return;
      }
      *state += fmt::format("{}\n{}\n", path, content ? *content : "none");
    }
  }).join();
  return state;
}

}  // namespace

Result<std::string> ipc_state(pid_t pid) {
  BATON_TRY(Fd ipc, open_file(fmt::format("/proc/{}/ns/ipc", pid), O_RDONLY));
  return read_within([&]() -> Status {
    if (::setns(ipc.get(), CLONE_NEWIPC) != 0) return fail_errno("enter an ipc namespace");
    return {};
  });
}

Result<std::string> fresh_ipc_state() {
  return read_within([]() -> Status {
    if (::unshare(CLONE_NEWIPC) != 0) return fail_errno("make an ipc namespace");
    return {};
  });
}

}  // namespace baton::sys
