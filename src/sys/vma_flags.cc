#include "sys/vma_flags.h"

#include <linux/bpf.h>
#include <linux/btf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "sys/file.h"

namespace baton::sys {
namespace {

constexpr const char* kTypesPath = "/sys/kernel/btf/vmlinux";
constexpr std::size_t kMaxTypesBytes = 64 << 20;
constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kMostMappings = 1 << 20;
constexpr int kLoadTries = 5;

// struct bpf_iter__task_vma of kernel/bpf/task_iter.c { meta, task, vma }, struct bpf_iter_meta of
// include/linux/bpf.h { seq, … }: pointers, of eight bytes each.
constexpr std::int16_t kMetaInContext = 0;
constexpr std::int16_t kVmaInContext = 16;
constexpr std::int16_t kSeqInMeta = 0;

// The kernel's types: include/uapi/linux/btf.h.
class Types {
 public:
  Types(Types&&) = default;  // bytes_ is too long to lie in the string itself
  static Result<Types> load() {
    Types types;
    BATON_TRY(types.bytes_, read_file(kTypesPath, kMaxTypesBytes));
    btf_header header{};
    if (types.bytes_.size() < sizeof header) return unfit();
    std::memcpy(&header, types.bytes_.data(), sizeof header);
    if (header.magic != BTF_MAGIC || header.hdr_len < sizeof header ||
        header.hdr_len > types.bytes_.size())
      return unfit();
    const std::string_view rest = std::string_view(types.bytes_).substr(header.hdr_len);
    if (std::uint64_t{header.type_off} + header.type_len > rest.size() ||
        std::uint64_t{header.str_off} + header.str_len > rest.size())
      return unfit();
    types.strings_ = rest.substr(header.str_off, header.str_len);
    if (!types.index(rest.substr(header.type_off, header.type_len))) return unfit();
    return types;
  }

  // 0: there is none.
  std::uint32_t find(std::string_view name, std::uint32_t kind) const {
    for (std::uint32_t id = 1; id < all_.size(); ++id) {
      const btf_type type = head(id);
      if (BTF_INFO_KIND(type.info) == kind && text(type.name_off) == name) return id;
    }
    return 0;
  }

  // Where a member lies, also of a struct or union without a name in it; in bytes.
  std::optional<std::uint32_t> offset_of(std::uint32_t id, std::string_view name) const {
    if (id == 0 || id >= all_.size()) return std::nullopt;
    const btf_type type = head(id);
    const std::uint32_t kind = BTF_INFO_KIND(type.info);
    if (kind != BTF_KIND_STRUCT && kind != BTF_KIND_UNION) return std::nullopt;
    for (std::uint32_t i = 0; i < BTF_INFO_VLEN(type.info); ++i) {
      btf_member member{};
      std::memcpy(&member, all_[id].data() + sizeof(btf_type) + i * sizeof member, sizeof member);
      const std::uint32_t bits =
          BTF_INFO_KFLAG(type.info) ? BTF_MEMBER_BIT_OFFSET(member.offset) : member.offset;
      const std::string_view called = text(member.name_off);
      if (called == name) return bits / 8;
      if (!called.empty()) continue;
      if (const auto inner = offset_of(without_qualifiers(member.type), name))
        return bits / 8 + *inner;
    }
    return std::nullopt;
  }

  static std::unexpected<Error> unfit() {
    return fail(ErrorCode::Unfit, fmt::format("{}: not as expected", kTypesPath));
  }

 private:
  Types() = default;
  btf_type head(std::uint32_t id) const {
    btf_type type{};
    std::memcpy(&type, all_[id].data(), sizeof type);
    return type;
  }
  std::string_view text(std::uint32_t offset) const {
    if (offset >= strings_.size()) return {};
    const std::string_view rest = strings_.substr(offset);
    return rest.substr(0, rest.find('\0'));
  }
  std::uint32_t without_qualifiers(std::uint32_t id) const {
    for (int i = 0; i < 8 && id != 0 && id < all_.size(); ++i) {
      const btf_type type = head(id);
      const std::uint32_t kind = BTF_INFO_KIND(type.info);
      if (kind != BTF_KIND_CONST && kind != BTF_KIND_VOLATILE && kind != BTF_KIND_TYPEDEF) break;
      id = type.type;
    }
    return id;
  }
  bool index(std::string_view types) {
    all_.emplace_back();  // they are numbered from 1
    while (!types.empty()) {
      btf_type type{};
      if (types.size() < sizeof type) return false;
      std::memcpy(&type, types.data(), sizeof type);
      const auto more = bytes_behind(type);
      if (!more || types.size() < sizeof type + *more) return false;
      all_.push_back(types.substr(0, sizeof type + *more));
      types.remove_prefix(sizeof type + *more);
    }
    return true;
  }
  static std::optional<std::size_t> bytes_behind(const btf_type& type) {
    const std::size_t count = BTF_INFO_VLEN(type.info);
    switch (BTF_INFO_KIND(type.info)) {
      case BTF_KIND_INT: return sizeof(std::uint32_t);
      case BTF_KIND_ARRAY: return sizeof(btf_array);
      case BTF_KIND_STRUCT:
      case BTF_KIND_UNION: return count * sizeof(btf_member);
      case BTF_KIND_ENUM: return count * sizeof(btf_enum);
      case BTF_KIND_ENUM64: return count * sizeof(btf_enum64);
      case BTF_KIND_FUNC_PROTO: return count * sizeof(btf_param);
      case BTF_KIND_VAR: return sizeof(btf_var);
      case BTF_KIND_DATASEC: return count * sizeof(btf_var_secinfo);
      case BTF_KIND_DECL_TAG: return sizeof(btf_decl_tag);
      case BTF_KIND_PTR:
      case BTF_KIND_FWD:
      case BTF_KIND_TYPEDEF:
      case BTF_KIND_VOLATILE:
      case BTF_KIND_CONST:
      case BTF_KIND_RESTRICT:
      case BTF_KIND_FUNC:
      case BTF_KIND_FLOAT:
      case BTF_KIND_TYPE_TAG: return 0;
      default: return std::nullopt;  // newer than this
    }
  }

  std::string bytes_;
  std::string_view strings_;
  std::vector<std::string_view> all_;
};

// A union of which all bytes count.
template <typename Union>
Union zeroed() {
  Union all;
  std::memset(&all, 0, sizeof all);
  return all;
}

int bpf(bpf_cmd command, bpf_attr& attributes) {
  return static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes));
}

std::uint64_t address_of(const void* at) { return reinterpret_cast<std::uintptr_t>(at); }

constexpr bpf_insn load(std::uint8_t to, std::uint8_t from, std::int16_t offset) {
  return {BPF_LDX | BPF_MEM | BPF_DW, to, from, offset, 0};
}
constexpr bpf_insn store(std::uint8_t to, std::uint8_t from, std::int16_t offset) {
  return {BPF_STX | BPF_MEM | BPF_DW, to, from, offset, 0};
}
constexpr bpf_insn set(std::uint8_t to, std::int32_t value) {
  return {BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value};
}

// Called for each mapping, and once more without one: writes a VmaFlags, at the end one of zeroes.
// (Whoever reads on behind the end is told of mappings again.)
Result<Fd> load_program(std::uint32_t iterator, const std::array<std::int16_t, 3>& members) {
  constexpr std::int16_t record = -static_cast<std::int16_t>(sizeof(VmaFlags));  // on the stack
  std::vector<bpf_insn> program = {
      load(BPF_REG_7, BPF_REG_1, kMetaInContext),
      load(BPF_REG_6, BPF_REG_1, kVmaInContext),
      load(BPF_REG_1, BPF_REG_7, kSeqInMeta),
      set(BPF_REG_2, 0),
  };
  const auto in_record = [](std::size_t i) {
    return static_cast<std::int16_t>(record + 8 * static_cast<int>(i));
  };
  for (std::size_t i = 0; i < members.size(); ++i)
    program.push_back(store(BPF_REG_10, BPF_REG_2, in_record(i)));
  const auto skipped = static_cast<std::int16_t>(2 * members.size());
  program.push_back({BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_6, 0, skipped, 0});
  for (std::size_t i = 0; i < members.size(); ++i) {
    program.push_back(load(BPF_REG_2, BPF_REG_6, members[i]));
    program.push_back(store(BPF_REG_10, BPF_REG_2, in_record(i)));
  }
  program.insert(program.end(), {{BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_2, BPF_REG_10, 0, 0},
                                 {BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, record},
                                 set(BPF_REG_3, sizeof(VmaFlags)),
                                 {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_seq_write},
                                 set(BPF_REG_0, 0),
                                 {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}});
  auto attributes = zeroed<bpf_attr>();
  attributes.prog_type = BPF_PROG_TYPE_TRACING;
  attributes.expected_attach_type = BPF_TRACE_ITER;
  attributes.insns = address_of(program.data());
  attributes.insn_cnt = static_cast<std::uint32_t>(program.size());
  attributes.license = address_of("GPL");  // which the kernel asks for: seq_write is for such alone
  attributes.attach_btf_id = iterator;
  std::memcpy(attributes.prog_name, "baton_vma_flags", sizeof "baton_vma_flags");
  Fd fd;
  for (int i = 0; i < kLoadTries && !fd.valid(); ++i) {  // a signal breaks it off
    fd = Fd(bpf(BPF_PROG_LOAD, attributes));
    if (!fd.valid() && errno != EAGAIN) break;
  }
  if (!fd.valid())
    return fail(ErrorCode::Unfit, fmt::format("load a BPF program: {}", std::strerror(errno)));
  return fd;
}

Result<Fd> open_iterator(const Fd& program, pid_t pid) {
  auto of_one = zeroed<bpf_iter_link_info>();
  of_one.task.tid = static_cast<std::uint32_t>(pid);
  auto attributes = zeroed<bpf_attr>();
  attributes.link_create.prog_fd = static_cast<std::uint32_t>(program.get());
  attributes.link_create.attach_type = BPF_TRACE_ITER;
  attributes.link_create.iter_info = address_of(&of_one);
  attributes.link_create.iter_info_len = sizeof of_one;
  const Fd link(bpf(BPF_LINK_CREATE, attributes));
  if (!link.valid())
    return fail(ErrorCode::Unfit, fmt::format("a BPF iterator: {}", std::strerror(errno)));
  attributes = zeroed<bpf_attr>();
  attributes.iter_create.link_fd = static_cast<std::uint32_t>(link.get());
  Fd iterator(bpf(BPF_ITER_CREATE, attributes));
  if (!iterator.valid())
    return fail(ErrorCode::Unfit, fmt::format("a BPF iterator: {}", std::strerror(errno)));
  return iterator;
}

}  // namespace

Result<VmaFlagsReader> VmaFlagsReader::create() {
  auto types = Types::load();
  if (!types) return fail(ErrorCode::Unfit, types.error().message());
  const std::uint32_t iterator = types->find("bpf_iter_task_vma", BTF_KIND_FUNC);
  const std::uint32_t vma = types->find("vm_area_struct", BTF_KIND_STRUCT);
  std::array<std::int16_t, 3> members{};
  constexpr std::array<std::string_view, 3> names = {"vm_start", "vm_end", "vm_flags"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto offset = types->offset_of(vma, names[i]);
    if (!offset || *offset > INT16_MAX || iterator == 0) return Types::unfit();
    members[i] = static_cast<std::int16_t>(*offset);
  }
  BATON_TRY(Fd program, load_program(iterator, members));
  VmaFlagsReader reader(std::move(program));
  // It can be loaded before Linux 6.1, too. What is not in order is so by chance.
  if (auto own = reader.read(::getpid()); !own && own.error().code() != ErrorCode::Unavailable)
    return fail(ErrorCode::Unfit, own.error().message());
  return reader;
}

Result<std::vector<VmaFlags>> VmaFlagsReader::read(pid_t pid) const {
  BATON_TRY(const Fd iterator, open_iterator(program_, pid));
  std::vector<VmaFlags> all;
  std::vector<VmaFlags> part(kReadBytes / sizeof(VmaFlags));
  std::uint64_t end = 0;
  for (;;) {
    const ssize_t size = ::read(iterator.get(), part.data(), part.size() * sizeof(VmaFlags));
    if (size < 0) return fail_errno("read a BPF iterator");
    if (size == 0 || static_cast<std::size_t>(size) % sizeof(VmaFlags) != 0)
      return fail(ErrorCode::Internal, "a BPF iterator ended within its answer");
    const std::size_t count = static_cast<std::size_t>(size) / sizeof(VmaFlags);
    for (const VmaFlags& vma : std::span(part).first(count)) {
      if (vma == VmaFlags() && all.empty())
        return fail(ErrorCode::NotFound, fmt::format("process {} has ended", pid));
      if (vma == VmaFlags()) return all;
      // They change meanwhile, or are of several processes (before Linux 6.1).
      if (vma.start < end || all.size() == kMostMappings)
        return fail(ErrorCode::Unavailable, "a BPF iterator's mappings are in no order");
      end = vma.end;
      all.push_back(vma);
    }
  }
}

}  // namespace baton::sys
