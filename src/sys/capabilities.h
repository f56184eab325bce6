// Capabilities of Linux (capabilities(7)): which of root's rights a process has.
#pragma once

#include <linux/capability.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::sys {

// A bit for each, by its number in linux/capability.h.
using Capabilities = std::uint64_t;

constexpr Capabilities capability_set(std::initializer_list<int> numbers) {
  Capabilities set = 0;
  for (const int number : numbers) set |= Capabilities{1} << number;
  return set;
}

// What a job's processes may have at most, unless more is asked for it: what container engines
// give, without making device files, which no job's files may hold.
inline constexpr Capabilities kJobCapabilities = capability_set(
    {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID,
     CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_AUDIT_WRITE, CAP_SETFCAP});

// What an agent keeps, and what a job can be given at most: what sandboxes and CRIU need, and, for
// health commands, to ask disks (smartctl) and to read the kernel's log.
inline constexpr Capabilities kAgentCapabilities =
    kJobCapabilities |
    capability_set({CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_IPC_LOCK, CAP_IPC_OWNER, CAP_SYS_RAWIO,
                    CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYS_TIME,
                    CAP_MKNOD, CAP_LEASE, CAP_SYSLOG, CAP_CHECKPOINT_RESTORE});

// What a controller keeps: its files may be another user's, its port below 1024.
inline constexpr Capabilities kControllerCapabilities =
    capability_set({CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE});

// "NET_ADMIN", "cap_net_admin". InvalidArgument: there is none such.
Result<Capabilities> capability_named(std::string_view name);
// "chown, kill"; "none".
std::string capability_names(Capabilities set);

// Those of the calling thread that it can hand on to what it executes as root.
Capabilities own_capabilities();

// The calling thread gives up all others, for itself and for what it executes. To be called before
// there are other threads, which would keep theirs. Returns what it has now.
Result<Capabilities> keep_capabilities(Capabilities kept);

}  // namespace baton::sys
