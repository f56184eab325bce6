// What the agent and baton-init say to each other.
//
//   agent                                        baton-init sandbox (pid 1)
//     │  clone + exec, descriptors below             │
//     │  config (memfd): records, see below ────────▶│ builds mounts, pivots, listens
//     │◀─────────────── report pipe: "" or a Report  │ (closes it)
//     │
//     │  control.sock (SOCK_SEQPACKET), any number of connections, one request at a time each
//     │  Request [+ descriptor] ────────────────────▶│
//     │◀──────────────────────── Reply [+ descriptors]
//
// Both sides are always of the same build, so structures travel as they lie in memory.
//
// Configuration and commands are sequences of NUL-terminated strings: a verb and as many
// arguments as the verb has. They may hold any byte but NUL.
#pragma once

#include <cstdint>

namespace baton::init {

// Descriptors of `baton-init sandbox N` at its start.
constexpr int kConfigFd = 3;
constexpr int kDirectoryFd = 4;  // the incarnation's directory on the node
constexpr int kControlFd = 5;    // bound to control.sock; pid 1 listens
constexpr int kReportFd = 6;
constexpr int kFirstGroupFd = 7;  // N files of groups that root and CRIU enter by writing "0"

// Descriptors of `baton-init root` at its start, besides 0, 1 and 2.
constexpr int kCommandFd = 3;
constexpr int kStartFd = 4;

// Name of pid 1 (PR_SET_NAME) once it ends everything, and itself last.
constexpr char kEndingName[] = "baton-ending";

// Paths inside of a sandbox.
constexpr char kInitPath[] = "/.baton/init";
constexpr char kCriuPath[] = "/.baton/criu";
constexpr char kShimPath[] = "/.baton/criu-shim.so";
constexpr char kImagesPath[] = "/.baton/images";
constexpr char kQuickImagesPath[] = "/.baton/quick";  // a tmpfs
constexpr char kIoPath[] = "/.baton/io";
constexpr char kOutputPath[] = "/.baton/io/output";
// In the overlay, unlike the output: what was read from it must be there after a restore.
constexpr char kStdinPath[] = "/.baton/stdin";

// Configuration of a sandbox, in this order of execution:
//   before the new root is entered (paths of the node)
//     overlay  <target> <options> <plain options> <fallback source>
//              plain options are tried when options are refused; then, or when there are no
//              options, the source is bound read-only unless it is empty
//     bind     <source> <target> <"ro"|"rw">      source opened now, attached below
//     root     <directory>                        becomes /
//   after it (paths of the sandbox)
//     bind     target made (as a folder or a file like the source) and attached
//     mkdir    <path> <octal mode>
//     symlink  <content> <path>
//     mount    <type> <target> <decimal flags> <options> <fallback>
//              fallback "skip": an error is logged, not reported
//   hostname <name>
//   lease    <decimal boot-time ns>
//
// A command (descriptor of a Start request): arg <value>…  env <NAME=value>…  workdir <path>
//   user <spec>   stdin <"data"|"null">
//   capabilities <hexadecimal bits>   the most that it may have; "0" when absent
//   privileges <"new"|"old">          old, also when absent: set-user-id bits and file
//                                     capabilities give it nothing

enum class Op : std::uint32_t {
  Status = 1,    // -> values: root pid, command pid, lease deadline
  Start,         // + descriptor of the command; -> values: root pid, command pid
  LaunchCriu,    // a: pid after which CRIU's pids begin, b: 1 to preload the shim, plus an Ipc;
                 // -> descriptors: socket, pidfd
  SetLease,      // a: deadline, CLOCK_BOOTTIME ns; 0: none
  DieWithAgent,  // a: 1 while this connection's end shall end the sandbox; 0: what was kept on it
                 // is let go
  Signal,        // a: number
  Kill,
  AdoptRestored,  // a: root pid, b: command pid
  Unharmed,       // CRIU was killed, and the tree runs on as if nothing had happened
  Keep,           // + descriptor, held open until DieWithAgent 0 on this connection
};

// The ipc namespace for CRIU: pid 1's, the root's, or a new one.
enum class Ipc : std::int64_t { Outside = 0, Root = 2, Fresh = 4 };

constexpr std::uint32_t kMagic = 0x42544e31;

struct Request {
  std::uint32_t magic = kMagic;
  Op op{};
  std::int64_t a = 0;
  std::int64_t b = 0;
};

enum class Code : std::int32_t { Ok, Internal, InvalidArgument, NotFound, FailedPrecondition };

struct Reply {
  Code code = Code::Ok;
  std::int32_t error_number = 0;  // appended to text by the agent when not 0
  std::int64_t values[3] = {};
  char text[512] = {};
};

// On the report pipe when the sandbox could not be built.
struct Report {
  std::int32_t error_number = 0;
  char text[1024] = {};
};

// On the pipe between root and pid 1: first the command's pid, then, only when it could not be
// run, an error. The pipe's end without one means that the command runs.
struct StartRecord {
  std::int32_t command_pid = 0;
  Code code = Code::Ok;
  std::int32_t error_number = 0;
  char text[512] = {};
};

}  // namespace baton::init
