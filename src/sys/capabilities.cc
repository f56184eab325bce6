#include "sys/capabilities.h"

#include <strings.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace baton::sys {
namespace {

// In the order of their numbers.
constexpr std::array kNames{"chown",
                            "dac_override",
                            "dac_read_search",
                            "fowner",
                            "fsetid",
                            "kill",
                            "setgid",
                            "setuid",
                            "setpcap",
                            "linux_immutable",
                            "net_bind_service",
                            "net_broadcast",
                            "net_admin",
                            "net_raw",
                            "ipc_lock",
                            "ipc_owner",
                            "sys_module",
                            "sys_rawio",
                            "sys_chroot",
                            "sys_ptrace",
                            "sys_pacct",
                            "sys_admin",
                            "sys_boot",
                            "sys_nice",
                            "sys_resource",
                            "sys_time",
                            "sys_tty_config",
                            "mknod",
                            "lease",
                            "audit_write",
                            "audit_control",
                            "setfcap",
                            "mac_override",
                            "mac_admin",
                            "syslog",
                            "wake_alarm",
                            "block_suspend",
                            "audit_read",
                            "perfmon",
                            "bpf",
                            "checkpoint_restore"};
static_assert(kNames.size() == CAP_CHECKPOINT_RESTORE + 1);

struct Sets {
  Capabilities effective = 0;
  Capabilities permitted = 0;
  Capabilities inheritable = 0;
};

Result<Sets> read_sets() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return fail_errno("capget");
  const auto whole = [](std::uint32_t low, std::uint32_t high) {
    return Capabilities{high} << 32 | low;
  };
  return Sets{whole(data[0].effective, data[1].effective),
              whole(data[0].permitted, data[1].permitted),
              whole(data[0].inheritable, data[1].inheritable)};
}

Status write_sets(const Sets& sets) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  for (int half = 0; half < _LINUX_CAPABILITY_U32S_3; ++half) {
    const auto part = [half](Capabilities set) {
      return static_cast<std::uint32_t>(set >> (32 * half));
    };
    data[half] = {part(sets.effective), part(sets.permitted), part(sets.inheritable)};
  }
  if (::syscall(SYS_capset, &header, data) != 0) return fail_errno("capset");
  return {};
}

Capabilities bounding_set() {
  Capabilities set = 0;
  // A number that the kernel does not have ends it.
  for (unsigned long number = 0; number < 64; ++number) {
    const int state = ::prctl(PR_CAPBSET_READ, number, 0, 0, 0);
    if (state < 0) break;
    if (state == 1) set |= Capabilities{1} << number;
  }
  return set;
}

}  // namespace

Result<Capabilities> capability_named(std::string_view name) {
  std::string plain(name);
  if (::strncasecmp(plain.c_str(), "cap_", 4) == 0) plain.erase(0, 4);
  for (std::size_t number = 0; number < kNames.size(); ++number)
    if (::strcasecmp(plain.c_str(), kNames[number]) == 0) return Capabilities{1} << number;
  return fail(ErrorCode::InvalidArgument, fmt::format("there is no capability \"{}\"", name));
}

std::string capability_names(Capabilities set) {
  std::string text;
  for (std::size_t number = 0; number < 64; ++number) {
    if (!(set >> number & 1)) continue;
    if (!text.empty()) text += ", ";
    text += number < kNames.size() ? kNames[number] : fmt::format("{}", number);
  }
  return text.empty() ? "none" : text;
}

Capabilities own_capabilities() {
  const auto sets = read_sets();
  return sets ? bounding_set() & sets->permitted : 0;
}

Result<Capabilities> keep_capabilities(Capabilities kept) {
  const Capabilities bounding = bounding_set();
  for (unsigned long number = 0; number < 64; ++number)
    if ((bounding & ~kept) >> number & 1)
      if (::prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0)
        return fail_errno(
            fmt::format("give up the capability {}", capability_names(Capabilities{1} << number)));
  BATON_TRY(Sets sets, read_sets());
  // What is inheritable comes back in a program that root executes, bounding set or not.
  sets = {sets.effective & kept, sets.permitted & kept, 0};
  BATON_CHECK(write_sets(sets));
  return sets.permitted & kept;
}

}  // namespace baton::sys
