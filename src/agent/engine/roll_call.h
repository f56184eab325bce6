// What a CRIU that was killed in the middle of a dump left behind.
//
// CRIU borrows each task: it stops it with ptrace, makes it run code of its own (a "parasite" in a
// mapping named CRIUMFD) and puts everything back. When CRIU dies, the kernel lets go of all tasks
// at once, wherever they are:
//   stopped, untouched or cured  they run on as if nothing had happened (most of the time of a
//   dump) inside the parasite's loop   it sees its socket close and returns to the saved registers
//   by
//                                itself; its mapping (a few pages) stays behind
//   inside an injected call      they hit a breakpoint instruction and die of SIGTRAP, or go on
//   with
//                                all signals blocked or with changed bytes of code
// Besides, TCP sockets may be left in repair mode, in which they send nothing; that is mended here.
//
// So the roll is taken before a dump and read again if CRIU dies: every process and thread that was
// there must still be there, outside of the parasite, with the signals it had blocked and with the
// code it had. A process that ended by itself in just that time can't be told from one that was
// lost: it counts as lost, because a job that silently lacks a process is the worse outcome.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::agent {

struct RollCall {
  struct Thread {
    std::string blocked_signals;
  };
  struct Process {
    pid_t inner_pid = 0;
    std::uint64_t start_ticks = 0;
    std::map<pid_t, Thread> threads;
    std::uint64_t code_address =
        0;  // where CRIU injects: the start of the first executable mapping
    std::string code;
  };
  std::map<pid_t, Process> processes;  // by pid on the node
};

// `processes`: as Sandbox::processes(). Those that end meanwhile are left out.
RollCall take_roll_call(const std::vector<std::pair<pid_t, pid_t>>& processes);

// Whether CRIU could be killed now and the tasks would run on as if nothing had happened: none of
// them is in an injected call. Goes by what can be seen from outside while they stand still.
bool can_be_let_go(const RollCall& before);

// Called after CRIU is dead. Waits (at most a second) for tasks that are finding back, mends
// sockets, and returns what is wrong, in words; empty: the job runs on unharmed.
std::string find_damage(const RollCall& before);

}  // namespace baton::agent
