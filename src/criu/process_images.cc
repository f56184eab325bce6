#include "criu/process_images.h"

#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <map>
#include <unordered_set>

#include "criu/criu_images.pb.h"
#include "criu/image_file.h"

namespace baton::criu {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::uint32_t, criu_images::FileEntry>;

// VMA_* of CRIU's criu/include/image.h.
constexpr std::uint32_t kVmaVsyscall = 1 << 2;
constexpr std::uint32_t kVmaVdso = 1 << 3;
constexpr std::uint32_t kVmaFile = 1 << 6 | 1 << 7;
constexpr std::uint32_t kVmaShared = 1 << 8;
constexpr std::uint32_t kVmaSysv = 1 << 10;
constexpr std::uint32_t kVmaVvar = 1 << 12;
constexpr std::uint32_t kVmaMemfd = 1 << 14;

// Of a mapping or descriptor; more is shown nowhere.
constexpr std::size_t kMaxTextBytes = 256;
// Mappings and descriptors of a job. Small images can name them, and large texts with them, over
// and over.
constexpr std::size_t kMaxLines = 4u << 20;

std::string address(std::uint32_t family,
                    const google::protobuf::RepeatedField<std::uint32_t>& words,
                    std::uint32_t port) {
  const int wanted = family == AF_INET6 ? 4 : 1;
  char text[INET6_ADDRSTRLEN] = "?";
  if (words.size() >= wanted)
    ::inet_ntop(family == AF_INET6 ? AF_INET6 : AF_INET, words.data(), text, sizeof text);
  return family == AF_INET6 ? fmt::format("[{}]:{}", text, port) : fmt::format("{}:{}", text, port);
}

std::string describe(const criu_images::InetSocket& socket) {
  constexpr std::uint32_t established = 1, listening = 10;  // TCP_* of linux/tcp_states.h
  const char* type = socket.type() == SOCK_STREAM  ? "tcp"
                     : socket.type() == SOCK_DGRAM ? "udp"
                                                   : "ip";
  std::string text =
      fmt::format("{} {}", type, address(socket.family(), socket.src_addr(), socket.src_port()));
  if (socket.dst_port() != 0)
    text += " -> " + address(socket.family(), socket.dst_addr(), socket.dst_port());
  if (socket.type() == SOCK_STREAM)
    text += socket.state() == listening     ? " listening"
            : socket.state() == established ? " established"
                                            : "";
  return text;
}

std::string describe(const criu_images::UnixSocket& socket) {
  std::string name = socket.name().substr(0, kMaxTextBytes);
  if (name.starts_with('\0')) name[0] = '@';
  while (name.ends_with('\0')) name.pop_back();
  std::string text = fmt::format("socket {}", socket.ino());
  if (!name.empty()) text += " " + name;
  if (socket.peer() != 0) text += fmt::format(" -> socket {}", socket.peer());
  return text;
}

std::string path_of(const criu_images::RegFile& file) {
  const std::string name = file.name().substr(0, kMaxTextBytes);
  return name.starts_with('/') ? name : "/" + name;
}

std::string describe(const criu_images::FileEntry& file) {
  if (file.has_reg()) return path_of(file.reg());
  if (file.has_isk()) return describe(file.isk());
  if (file.has_usk()) return describe(file.usk());
  if (file.has_pipe()) return fmt::format("pipe {}", file.pipe().pipe_id());
  if (file.has_fifo()) return fmt::format("pipe {}", file.fifo().pipe_id());
  return "";
}

// CRIU itself does not always tell stack and heap from other private memory.
std::string describe(const criu_images::VmaEntry& vma, const criu_images::MmEntry& space,
                     const Files& files) {
  const std::uint32_t status = vma.status();
  const bool is_stack = space.mm_start_stack() >= vma.start() && space.mm_start_stack() < vma.end();
  const bool is_heap = vma.start() < space.mm_brk() && vma.end() > space.mm_start_brk();
  if (status & kVmaFile) {
    auto file = files.find(static_cast<std::uint32_t>(vma.shmid()));
    return file == files.end() ? "a file" : describe(file->second);
  }
  if (is_stack) return "[stack]";
  if (is_heap) return "[heap]";
  if (status & kVmaVdso) return "[vdso]";
  if (status & kVmaVvar) return "[vvar]";
  if (status & kVmaVsyscall) return "[vsyscall]";
  if (status & kVmaMemfd) return "memfd";
  if (status & kVmaSysv) return "SysV shared memory";
  return status & kVmaShared ? "shared memory" : "";
}

std::string access_of(const criu_images::VmaEntry& vma) {
  std::string text = "---p";
  if (vma.prot() & PROT_READ) text[0] = 'r';
  if (vma.prot() & PROT_WRITE) text[1] = 'w';
  if (vma.prot() & PROT_EXEC) text[2] = 'x';
  if (vma.flags() & MAP_SHARED) text[3] = 's';
  return text;
}

// Damaged: there is none.
template <typename Entry>
Result<std::vector<Entry>> need_entries(const sys::OpenSource& images, const std::string& name,
                                        std::uint32_t magic) {
  BATON_TRY(auto entries, find_entries<Entry>(images, name, magic));
  if (!entries) return fail(ErrorCode::Damaged, fmt::format("{} is missing", name));
  return std::move(*entries);
}

Status add_memory(const sys::OpenSource& images, const Files& files, ProcessImage& process) {
  BATON_TRY(auto spaces, find_entries<criu_images::MmEntry>(
                             images, fmt::format("mm-{}.img", process.pid), kMmMagic));
  if (!spaces) return {};  // a zombie
  for (const auto& space : *spaces) {
    process.environment_start = space.mm_env_start();
    process.environment_end = space.mm_env_end();
    for (const auto& vma : space.vmas())
      process.mappings.push_back(
          {vma.start(), vma.end(), access_of(vma), describe(vma, space, files)});
  }
  return {};
}

Status add_descriptors(const sys::OpenSource& images, const Files& files, ProcessImage& process) {
  BATON_TRY(auto ids, find_entries<criu_images::TaskIds>(
                          images, fmt::format("ids-{}.img", process.pid), kIdsMagic));
  if (!ids || ids->empty()) return {};
  BATON_TRY(auto entries,
            find_entries<criu_images::FdinfoEntry>(
                images, fmt::format("fdinfo-{}.img", ids->front().files_id()), kFdinfoMagic));
  if (!entries) return {};
  for (const auto& entry : *entries) {
    auto file = files.find(entry.id());
    const char* kind = file_kind(file == files.end() ? entry.type() : file->second.type());
    process.descriptors.push_back(
        {entry.fd(), kind ? kind : "unknown", file == files.end() ? "" : describe(file->second)});
  }
  return {};
}

Status add_command(const sys::OpenSource& images, ProcessImage& process) {
  BATON_TRY(auto cores, need_entries<criu_images::CoreEntry>(
                            images, fmt::format("core-{}.img", process.pid), kCoreMagic));
  if (!cores.empty()) process.command = cores[0].tc().comm();
  return {};
}

}  // namespace

Result<std::vector<ProcessImage>> read_processes(const sys::OpenSource& images) {
  BATON_TRY(auto entries, need_entries<criu_images::FileEntry>(images, "files.img", kFilesMagic));
  Files files;
  for (auto& entry : entries) files.emplace(entry.id(), std::move(entry));
  BATON_TRY(auto tree, need_entries<criu_images::PstreeEntry>(images, "pstree.img", kPstreeMagic));
  std::vector<ProcessImage> processes;
  std::unordered_set<std::uint32_t> pids;
  std::size_t lines = 0;
  for (const auto& entry : tree) {
    if (!pids.insert(entry.pid()).second)
      return fail(ErrorCode::Damaged,
                  fmt::format("CRIU's images have process {} twice", entry.pid()));
    ProcessImage process;
    process.pid = static_cast<pid_t>(entry.pid());
    process.parent = static_cast<pid_t>(entry.ppid());
    for (auto thread : entry.threads()) process.threads.push_back(static_cast<pid_t>(thread));
    BATON_CHECK(add_command(images, process));
    BATON_CHECK(add_memory(images, files, process));
    BATON_CHECK(add_descriptors(images, files, process));
    lines += process.mappings.size() + process.descriptors.size();
    if (lines > kMaxLines)
      return fail(ErrorCode::Damaged, "CRIU's images have an absurd number of mappings");
    processes.push_back(std::move(process));
  }
  return processes;
}

Result<std::vector<AddressRange>> read_lazy_mappings(const fs::path& directory, pid_t pid) {
  // VMA_AREA_VSYSCALL, VMA_AREA_VDSO and VMA_AREA_VVAR of CRIU's criu/include/image.h.
  constexpr std::uint32_t kernels_own = 1u << 2 | 1u << 3 | 1u << 12;
  std::vector<AddressRange> ranges;
  BATON_TRY(auto spaces, read_entries<criu_images::MmEntry>(
                             directory / fmt::format("mm-{}.img", pid), kMmMagic));
  for (const auto& space : spaces)
    for (const auto& vma : space.vmas()) {
      const bool anonymous = (vma.flags() & MAP_ANONYMOUS) && (vma.flags() & MAP_PRIVATE);
      // A child is to find zeroes there, not what its parent still awaits.
      const bool wiped = vma.madv() & (std::uint64_t{1} << MADV_WIPEONFORK);
      if (anonymous && !wiped && !(vma.flags() & (MAP_LOCKED | MAP_HUGETLB)) &&
          !(vma.status() & kernels_own))
        ranges.push_back({vma.start(), vma.end()});
    }
  return ranges;
}

}  // namespace baton::criu
