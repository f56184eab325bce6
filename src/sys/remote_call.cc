#include "sys/remote_call.h"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "sys/file.h"
#include "sys/interrupted_call.h"
#include "sys/proc_maps.h"
#include "sys/process.h"
#include "sys/process_attributes.h"
#include "sys/trace_stop.h"
#include "sys/userfaultfd.h"

namespace baton::sys {
namespace {

#if defined(__x86_64__)

// include/uapi/linux/rseq.h
struct RestartableSequence {
  std::uint32_t version;
  std::uint32_t flags;
  std::uint64_t start_ip;
  std::uint64_t post_commit_offset;
  std::uint64_t abort_ip;
};
constexpr std::uint64_t rseq_cs_offset = 8;  // offsetof(struct rseq, rseq_cs)

template <typename T>
bool peek(pid_t tid, std::uint64_t address, T& value) {
  iovec local{&value, sizeof value};
  iovec remote{reinterpret_cast<void*>(address), sizeof value};
  return ::process_vm_readv(tid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(sizeof value);
}

// One thread of another process, stopped from attach() until the object ends. Belongs to the
// thread that attached it.
class StoppedThread {
 public:
  static Result<StoppedThread> attach(pid_t tid, bool suspend_seccomp) {
    long options = suspend_seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0;
    if (::ptrace(PTRACE_SEIZE, tid, 0, options) != 0) {
      if (errno == EPERM)
        return fail(ErrorCode::Unfit, "it is traced already, or tracing it is not permitted");
      return trace_error("trace the process");
    }
    StoppedThread thread(tid);
    BATON_CHECK(thread.stop());
    BATON_CHECK(thread.save());
    return thread;
  }

  StoppedThread(StoppedThread&& other) noexcept
      : tid_(std::exchange(other.tid_, 0)),
        saved_(other.saved_),
        registers_(other.registers_),
        mask_(other.mask_),
        signal_(other.signal_) {}
  StoppedThread& operator=(StoppedThread&&) = delete;
  ~StoppedThread() {
    if (!tid_) return;
    if (saved_) {
      ::ptrace(PTRACE_SETREGS, tid_, 0, &registers_);
      ::ptrace(PTRACE_SETSIGMASK, tid_, sizeof mask_, &mask_);
    }
    ::ptrace(PTRACE_DETACH, tid_, 0, static_cast<long>(signal_));
  }

  // The system call's result; -errno on its failure.
  Result<std::int64_t> call(std::uint64_t instruction, std::uint64_t number, std::uint64_t a = 0) {
    user_regs_struct registers = registers_;
    registers.rip = instruction;
    registers.rax = number;
    registers.rdi = a;
    registers.orig_rax = ~0ull;  // keeps the kernel from restarting the interrupted call now
    if (::ptrace(PTRACE_SETREGS, tid_, 0, &registers) != 0) return trace_error("set registers");
    for (;;) {
      if (::ptrace(PTRACE_SINGLESTEP, tid_, 0, 0) != 0) return trace_error("step the process");
      // Let go of now, it would run on with our registers and die of the step's SIGTRAP. It needs
      // nothing but a processor, for which it may have to wait.
      BATON_TRY(auto stop, wait_for_stop(no_trace_stop_limit_ns));
      const int signal = stop.signal;
      if (signal == SIGTRAP && !stop.event) break;
      if (stop.event) continue;  // job control stopped or continued the process meanwhile
      if (signal == SIGSYS) return fail(ErrorCode::Unfit, "it intercepts its own system calls");
      // The step's own fault, not a signal that somebody sent: those are blocked.
      if (signal == SIGSEGV || signal == SIGBUS || signal == SIGILL)
        return fail(ErrorCode::Unfit, "it faults at a system call instruction of its vdso");
      // SIGSTOP can't be blocked: it gets its due when we let go.
      signal_ = signal;
    }
    if (::ptrace(PTRACE_GETREGS, tid_, 0, &registers) != 0) return trace_error("get registers");
    if (registers.rip == instruction) return fail(ErrorCode::Internal, "the step did not happen");
    return static_cast<std::int64_t>(registers.rax);
  }

 private:
  explicit StoppedThread(pid_t tid) : tid_(tid) {}

  Status stop() {
    for (;;) {
      if (::ptrace(PTRACE_INTERRUPT, tid_, 0, 0) != 0) return trace_error("stop the process");
      BATON_TRY(auto stop, wait_for_stop(trace_stop_limit_ns));
      if (stop.event) return {};
      // A signal came first, and its stop used up the interrupt: let it be delivered.
      if (::ptrace(PTRACE_CONT, tid_, 0, static_cast<long>(stop.signal)) != 0)
        return trace_error("stop the process");
    }
  }

  Status save() {
    iovec set{&registers_, sizeof registers_};
    if (::ptrace(PTRACE_GETREGSET, tid_, NT_PRSTATUS, &set) != 0)
      return trace_error("get registers");
    if (set.iov_len != sizeof registers_ || registers_.cs != user_code_64)
      return fail(ErrorCode::Unfit, "it is a 32-bit program");
    // A checkpoint may interrupt it again, and must still know what it waits in.
    let_it_be_made_again(registers_);
    if (::ptrace(PTRACE_GETSIGMASK, tid_, sizeof mask_, &mask_) != 0)
      return trace_error("get the signal mask");
    BATON_CHECK(leave_restartable_sequence());
    saved_ = true;
    // Without SIGTRAP, whose handler the kernel drops when a step finds it blocked.
    std::uint64_t all = ~(1ull << (SIGTRAP - 1));
    if (::ptrace(PTRACE_SETSIGMASK, tid_, sizeof all, &all) != 0)
      return trace_error("set the signal mask");
    return {};
  }

  // The kernel forgets a restartable sequence when the thread runs elsewhere, as ours will; the
  // thread has to go on at its abort handler, as after any preemption.
  Status leave_restartable_sequence() {
    __ptrace_rseq_configuration rseq{};
    if (::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid_, sizeof rseq, &rseq) <= 0) return {};
    if (rseq.rseq_abi_pointer == 0) return {};
    std::uint64_t descriptor = 0;
    RestartableSequence sequence{};
    if (!peek(tid_, rseq.rseq_abi_pointer + rseq_cs_offset, descriptor) || descriptor == 0)
      return {};
    if (!peek(tid_, descriptor, sequence)) return fail_errno("read a restartable sequence");
    if (registers_.rip - sequence.start_ip < sequence.post_commit_offset)
      registers_.rip = sequence.abort_ip;
    return {};
  }

  Result<TraceStop> wait_for_stop(std::int64_t limit_ns) {
    auto stop = wait_for_trace_stop(tid_, limit_ns);
    if (!stop) tid_ = 0;
    return stop;
  }

  static constexpr std::uint64_t user_code_64 = 0x33;

  pid_t tid_;
  bool saved_ = false;
  user_regs_struct registers_{};
  std::uint64_t mask_ = 0;
  int signal_ = 0;
};

// The address of a system call instruction in the process: its vdso always has some.
Result<std::uint64_t> find_call_instruction(pid_t pid) {
  BATON_TRY(auto mappings, read_mappings(pid));
  for (const Mapping& mapping : mappings) {
    if (mapping.name != "[vdso]") continue;
    std::vector<unsigned char> code(mapping.end - mapping.start);
    iovec local{code.data(), code.size()};
    iovec remote{reinterpret_cast<void*>(mapping.start), code.size()};
    if (::process_vm_readv(pid, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(code.size()))
      return trace_error("read the process's vdso");
    static constexpr unsigned char instruction[] = {0x0f, 0x05};
    auto at = std::search(code.begin(), code.end(), std::begin(instruction), std::end(instruction));
    if (at != code.end()) return mapping.start + static_cast<std::uint64_t>(at - code.begin());
  }
  if (mappings.empty()) return fail(ErrorCode::NotFound, "the process ended");
  return fail(ErrorCode::Unfit, "it has no vdso");
}

// A thread that will stop soon: any that is not in an uninterruptible sleep, the leader first. Such
// a sleep is mostly over at once (a page that comes from a disk), so this looks again for a while;
// nothing tells when it ends.
Result<pid_t> choose_thread(pid_t pid) {
  const std::int64_t began_ns = boot_time_ns();
  for (;;) {
    const auto threads = thread_ids(pid);
    if (threads.empty()) return fail(ErrorCode::NotFound, "the process ended");
    bool any_alive = false;
    for (pid_t tid : threads) {
      auto state = status_field(tid, "State");
      if (!state || state->empty()) continue;
      if (std::string_view("DZXx").find(state->front()) == std::string_view::npos) return tid;
      any_alive |= state->front() == 'D';
    }
    if (!any_alive || boot_time_ns() - began_ns > trace_stop_limit_ns)
      return fail(ErrorCode::Unfit, "no thread of it can be stopped (they wait inside the kernel)");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Result<bool> has_seccomp_filter(pid_t tid) {
  BATON_TRY(std::string mode, status_field(tid, "Seccomp"));
  return !mode.starts_with('0');
}

Status with_stopped_thread(
    pid_t pid, const std::function<Status(StoppedThread&, std::uint64_t instruction)>& work) {
  Status outcome;
  std::thread([&] {
    outcome = [&]() -> Status {
      BATON_TRY(pid_t tid, choose_thread(pid));
      BATON_TRY(bool seccomp, has_seccomp_filter(tid));
      BATON_TRY(StoppedThread thread, StoppedThread::attach(tid, seccomp));
      // Only now: a program that the process executes before it stands still has another vdso.
      BATON_TRY(std::uint64_t instruction, find_call_instruction(pid));
      return work(thread, instruction);
    }();
  }).join();
  return outcome;
}

Result<Fd> make_and_take(pid_t pid, StoppedThread& thread, std::uint64_t instruction) {
  BATON_TRY(PidFd process, PidFd::open(pid));
  BATON_TRY(std::int64_t number, thread.call(instruction, SYS_userfaultfd,
                                             static_cast<std::uint64_t>(userfaultfd_flags())));
  if (number < 0)
    return fail(ErrorCode::Unfit, fmt::format("it can't make a userfaultfd: {}",
                                              strerror(static_cast<int>(-number))));
  Fd taken(
      static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), static_cast<int>(number), 0)));
  int error = errno;
  BATON_CHECK(thread.call(instruction, SYS_close, static_cast<std::uint64_t>(number)));
  if (!taken.valid()) return fail_errno("take the userfaultfd", error);
  return taken;
}

#endif

}  // namespace

#if defined(__x86_64__)

Result<Fd> take_userfaultfd(pid_t pid) {
  Fd taken;
  BATON_CHECK(
      with_stopped_thread(pid, [&](StoppedThread& thread, std::uint64_t instruction) -> Status {
        BATON_TRY(taken, make_and_take(pid, thread, instruction));
        return {};
      }));
  return taken;
}

Status close_descriptor_in(pid_t pid, int number) {
  return with_stopped_thread(pid, [&](StoppedThread& thread, std::uint64_t instruction) -> Status {
    BATON_TRY(std::int64_t result,
              thread.call(instruction, SYS_close, static_cast<std::uint64_t>(number)));
    if (result < 0) return fail_errno("close a descriptor", static_cast<int>(-result));
    return {};
  });
}

#else

Result<Fd> take_userfaultfd(pid_t) {
  return fail(ErrorCode::Unfit, "system calls in other processes are known for x86-64 only");
}

Status close_descriptor_in(pid_t, int) {
  return fail(ErrorCode::Unfit, "system calls in other processes are known for x86-64 only");
}

#endif

}  // namespace baton::sys
