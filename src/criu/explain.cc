#include "criu/explain.h"

#include <algorithm>
#include <optional>
#include <regex>
#include <vector>

#include "criu/log.h"

namespace baton::criu {
namespace {

// What CRIU logs (a regular expression), and what to make of it; {1} and {2} stand for its groups.
struct Rule {
  const char* pattern;
  ErrorCode code;
  const char* text;
};

// Patterns are from CRIU 4.2's messages. The first that matches a line wins: narrow before wide.
constexpr Rule dump_rules[] = {
    {"\\[io_uring\\]", ErrorCode::Refused,
     "uses io_uring, which CRIU can't dump; switch it off in the program (MariaDB: "
     "innodb_use_native_aio=0, Node.js: UV_USE_IO_URING=0)"},
    {"\\[userfaultfd\\]", ErrorCode::Refused,
     "uses userfaultfd, which CRIU can't dump; switch it off in the program (QEMU: no post-copy "
     "migration, Java: no ZGC/Shenandoah uncommit)"},
    {"\\[perf_event\\]", ErrorCode::Refused,
     "holds a perf event, which CRIU can't dump; run it without profiling"},
    {"bpf-(prog|map|link)|\\[?bpf[-_]", ErrorCode::Refused,
     "holds a BPF object, which CRIU can't dump; run it without BPF"},
    {"landlock", ErrorCode::Refused,
     "holds a landlock ruleset, which CRIU can't dump; switch its own sandboxing off"},
    {"\\[fanotify\\].*(Error|error|fail)", ErrorCode::Refused,
     "watches a whole filesystem with fanotify, which can't be restored elsewhere"},
    {"kvm-vcpu|kvm-vm|/dev/kvm", ErrorCode::Refused,
     "runs a virtual machine (/dev/kvm), whose state CRIU can't see; use the hypervisor's own "
     "snapshots"},
    {"/dev/fuse", ErrorCode::Refused,
     "serves a FUSE filesystem (/dev/fuse), which CRIU can't dump; mount it outside and give it to "
     "the job as a --volume"},
    {"/dev/net/tun|[Tt]un-file|tun device", ErrorCode::Refused,
     "holds a tun/tap device, which CRIU can't dump here; keep the tunnel outside of the job"},
    {"/dev/(nvidia|dri|kfd)[^ )]*", ErrorCode::Refused,
     "uses a graphics processor, which CRIU can't dump without the vendor's plugin"},
    {"/dev/mqueue|mqueue", ErrorCode::Refused,
     "holds a POSIX message queue, which CRIU can't dump; use a socket, a pipe or a System V "
     "queue"},
    {"packetized mode for pipes", ErrorCode::Refused,
     "uses a packet pipe (O_DIRECT), which CRIU can't dump; use a SOCK_SEQPACKET socket pair"},
    {"\\[(secretmem|dma_?buf|sync_file|inotify_rm)\\]|secretmem", ErrorCode::Refused,
     "holds memory or a buffer that only the kernel may read, which CRIU can't dump"},
    {"anon anon_inode:\\[?([^\\])]+)", ErrorCode::Refused,
     "holds a {1} descriptor, which CRIU can't dump; see whether the program can do without it"},
    {"Can't dump file (\\d+) of that type \\[\\d+\\] \\((?:chr|unknown) ([^)]+)\\)",
     ErrorCode::Refused,
     "has the device {2} open (descriptor {1}), which CRIU can't dump; run it without that device"},
    {"Can't dump file (\\d+) of that type \\[\\d+\\] \\(([^)]*)\\)", ErrorCode::Refused,
     "has a kind of file open (descriptor {1}: {2}) that CRIU can't dump"},
    {"Unseizable non-zombie (\\d+) found|Can't suspend.*traced|already traced", ErrorCode::Refused,
     "is being traced (by a debugger or strace) or sits in uninterruptible sleep, so CRIU can't "
     "stop it (process {1}); detach the tracer"},
    {"criu itself is within dumped tree", ErrorCode::Internal,
     "CRIU ended up inside of the job's process tree"},
    {"Can't dump nested (\\w+) namespace for (\\d+)", ErrorCode::Refused,
     "process {2} lives in a {1} namespace of its own, which CRIU can't dump; run the job without "
     "containers or sandboxes inside (Chrome: --no-sandbox)"},
    {"Can't dump nested time namespace", ErrorCode::Refused,
     "has a time namespace of its own, which CRIU can't dump; start it without unshare --time"},
    {"Can't dump a pid namespace without the process init|pid namespace.*nested|pidns",
     ErrorCode::Refused,
     "has a pid namespace of its own, which CRIU can't dump; run the job without containers "
     "inside"},
    {"namespaces? doesn't belong to the target user namespace|Can't make userns id",
     ErrorCode::Refused,
     "has a user namespace of its own, which CRIU can't dump; run the job without containers or "
     "sandboxes inside"},
    {"half of stream unix connection.*peer name: ([^\\n]*)", ErrorCode::Refused,
     "is connected by a unix socket to a process outside of the job (peer: {1}); start both ends "
     "inside of the job, or close the connection"},
    {"External socket is used|name-less external socket", ErrorCode::Refused,
     "is connected by a unix socket to a process outside of the job; start both ends inside of it"},
    {"Can't dump ghost file (.*) of (\\d+) size", ErrorCode::Refused,
     "keeps a deleted file open that is too large to carry ({1}, {2} bytes; the limit is 1 GiB); "
     "let it keep the file under a name"},
    {"dangling tty|No task found with sid|external terminal|Found slave peer index",
     ErrorCode::Refused,
     "uses a terminal that belongs to someone outside of the job; redirect its input and output, "
     "or start tmux or script inside of the job"},
    {"SysVIPC shmem map.*IPC ns|shmem.*ipc ns", ErrorCode::Refused,
     "uses System V shared memory of another ipc namespace"},
    {"[Uu]nsupported proto(col)? (\\d+)|multipathtcp", ErrorCode::Refused,
     "uses a socket protocol that CRIU can't dump (number {2}); Go programs: set "
     "GODEBUG=multipathtcp=0"},
    {"Can't dump (\\d+) inet socket", ErrorCode::Refused,
     "has an inet socket in a state that CRIU can't dump (raw, or with other options)"},
    {"corked dgram socket", ErrorCode::Refused,
     "has a corked UDP socket; CRIU can't dump what waits in it"},
    {"[Uu]nsupported (socket )?(family|type):? \\(?(\\d+)\\)?", ErrorCode::Refused,
     "uses a kind of socket that CRIU can't dump ({2} {3})"},
    {"In-flight connection", ErrorCode::Unavailable,
     "a connection was just being made; the next checkpoint will do"},
    {"Some file locks are hold|Unresolved lock found", ErrorCode::Refused,
     "holds a file lock together with a process outside of the job"},
    {"Can't get 1:16 opt|Can't get \\d+:\\d+ opt: Operation not supported", ErrorCode::Unfit,
     "this CRIU is too old for this kernel (it can't read socket options): run "
     "scripts/provision-criu"},
    {"Unexpected rt vDSO area bounds|vdso: .*(bounds|Unexpected)", ErrorCode::Unfit,
     "this CRIU is too old for this kernel (it does not know its vdso): run "
     "scripts/provision-criu"},
    {"Can't get rlimit \\d+: Operation not permitted", ErrorCode::Unfit,
     "CRIU may not read another user's limits here: CAP_SYS_RESOURCE is missing and the shim is "
     "not loaded"},
    {"running in 32-bit mode", ErrorCode::Refused,
     "is a 32-bit program, which this CRIU can't dump"},
    {"with LDT descriptors", ErrorCode::Refused,
     "uses LDT segments (Wine with 16-bit programs does), which CRIU can't dump"},
    {"pending SIGTRAP", ErrorCode::Refused, "is being debugged; detach the debugger"},
    {"uprobes vma", ErrorCode::Refused, "has uprobes placed into it; remove the probes"},
    {"Unsupported mapping found ([0-9a-f]+-[0-9a-f]+)", ErrorCode::Refused,
     "maps device memory or another special area ({1}) that CRIU can't dump"},
    {"Can't handle non-regular mapping", ErrorCode::Refused,
     "maps a device or a socket, which CRIU can't dump"},
    {"Unknown shit \\d+ \\((.*)\\)", ErrorCode::Refused, "maps {1}, which CRIU can't dump"},
    {"Can't dump that handle", ErrorCode::Refused,
     "watches a file with inotify on a filesystem without file handles; keep watched folders in "
     "the private filesystem"},
    {"Can't lookup mount=\\d+ for fd=\\d+ path=(\\S+)", ErrorCode::Refused,
     "uses {1} on a mount that CRIU can't see (an overlay over an overlay, or one mounted by the "
     "job); put the node's data folder on a plain filesystem"},
    {"doesn't have a proper root mount", ErrorCode::Refused,
     "a process lives in a mount namespace of its own, which can't be restored; run the job "
     "without "
     "containers, sandboxes or unshare --mount inside"},
    {"overmounted mounts.*path=(\\S+)", ErrorCode::Refused,
     "has {1} open, which another mount hides now"},
    {"Can't create link remap for (\\S+)", ErrorCode::Refused,
     "keeps {1} open, which was renamed or deleted, and its folder can't be written"},
    {"No space left on device", ErrorCode::NoSpace,
     "the disk that checkpoints are written to is full"},
    {"Timeout reached|Unable to freeze", ErrorCode::TimedOut,
     "a process could not be stopped in time (it sits in uninterruptible sleep, as on a hanging "
     "network filesystem)"},
};

constexpr Rule restore_rules[] = {
    {"File (\\S+) has bad size (\\d+) \\(expect (\\d+)\\)", ErrorCode::Unfit,
     "{1} is not the file that the job had open: it has {2} bytes here, {3} at the checkpoint"},
    {"File (\\S+) has bad (build-ID|mode)", ErrorCode::Unfit,
     "{1} is not the file that the job had open (another {2}): the node has another version of it"},
    {"Can't open file (\\S+)(?: on restore)?: No such file", ErrorCode::NotFound,
     "{1}, which the job had open, is missing on this node"},
    {"Can't fork for (\\d+): File exists", ErrorCode::Internal,
     "pid {1} is taken in the new sandbox already"},
    {"Can't fork for (\\d+): (.*)", ErrorCode::Unfit, "process {1} could not be made: {2}"},
    {"Can't bind inet socket.*: Address already in use", ErrorCode::Unfit,
     "an address and port that the job listens on is taken on this node"},
    {"Can't bind inet socket.*: Cannot assign requested address", ErrorCode::Unfit,
     "the job is bound to an address that this node does not have"},
    {"Can't connect inet socket back|Can't restore.*tcp|restore.*TCP", ErrorCode::Unfit,
     "a TCP connection of the job can't be continued from this node"},
    {"[Cc]pu.*(capab|feature|instruction)|fpu.*(size|xsave)|xsave", ErrorCode::Unfit,
     "this node's processor lacks something that the job's had"},
    {"Can't open (\\S*\\.img)|Unable to open (\\S*\\.img)|image.*(corrupt|Magic|magic)|Unexpected "
     "EOF|"
     "Can't read record|Image corruption|Corrupted",
     ErrorCode::Damaged, "the checkpoint's images are not whole"},
    {"Cannot allocate memory|Can't allocate", ErrorCode::Unfit, "this node has too little memory"},
    {"No space left on device", ErrorCode::NoSpace, "a disk of this node is full"},
    {"dangling tty|external terminal|Don't have tty to inherit", ErrorCode::Refused,
     "the job used a terminal that belonged to someone outside of it"},
    {"Can't restore sub-task in NS|Can't find.*namespace|Unable to.*namespace", ErrorCode::Refused,
     "a process of the job has a namespace of its own, which can't be made again here"},
    {"Unable to find the (\\d+) mount|mount.*not found", ErrorCode::Refused,
     "the job has files open on a mount of its own making, which can't be made again here"},
    {"Can't restore apparmor|Can't write lsm|lsm.*(profile|label)", ErrorCode::Unfit,
     "this node's security module (AppArmor or SELinux) has no such profile"},
};

std::string fill_in(const char* text, const std::smatch& match) {
  std::string result;
  for (const char* at = text; *at; ++at) {
    bool group = at[0] == '{' && at[1] >= '1' && at[1] <= '9' && at[2] == '}';
    if (!group) {
      result += *at;
      continue;
    }
    auto number = static_cast<std::size_t>(at[1] - '0');
    if (number < match.size()) result += match[number].str();
    at += 2;
  }
  return result;
}

struct Compiled {
  const Rule* rule;
  std::regex pattern;
};

std::vector<Compiled> compile(const Rule* begin, const Rule* end) {
  std::vector<Compiled> compiled;
  for (; begin != end; ++begin)
    compiled.push_back({begin, std::regex(begin->pattern, std::regex::optimize)});
  return compiled;
}

const std::vector<Compiled>& rules(Operation operation) {
  static const auto dump = compile(std::begin(dump_rules), std::end(dump_rules));
  static const auto restore = compile(std::begin(restore_rules), std::end(restore_rules));
  return operation == Operation::Dump ? dump : restore;
}

// CRIU's own lines are shorter. std::regex recurses for each character.
constexpr std::size_t line_bytes_max = 2048;

std::optional<Explanation> match_line(Operation operation, std::string line) {
  line.resize(std::min(line.size(), line_bytes_max));
  for (const auto& [rule, pattern] : rules(operation)) {
    std::smatch match;
    if (std::regex_search(line, match, pattern))
      return Explanation{rule->code, fill_in(rule->text, match)};
  }
  return std::nullopt;
}

}  // namespace

Explanation explain_line(Operation operation, const std::string& line) {
  if (auto known = match_line(operation, line)) return *known;
  return {ErrorCode::Internal, "CRIU: " + line};
}

Explanation explain(Operation operation, std::string_view answer, std::string_view log) {
  // A later error often names what the first one only circles.
  for (std::string_view rest = log; !rest.empty();) {
    auto end = rest.find('\n');
    std::string error = first_error(rest.substr(0, end));
    if (!error.empty())
      if (auto known = match_line(operation, error)) return *known;
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  std::string first = first_error(log);
  if (first.empty()) first = answer;
  if (first.empty()) return {ErrorCode::Internal, "CRIU failed without a word"};
  return explain_line(operation, first);
}

}  // namespace baton::criu
