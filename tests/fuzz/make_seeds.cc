// Writes the seeds that the fuzz targets begin with: small examples of what each decoder reads,
// made by Baton's own writers. Run it again when a format changes; what fuzzing found lies beside
// them under other names and stays.
//
//   make_fuzz_seeds FOLDER
#include <archive.h>
#include <archive_entry.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <iostream>
#include <limits>

#include "agent/engine/record.h"
#include "criu/criu_images.pb.h"
#include "criu/image_codec.h"
#include "criu/image_file.h"
#include "fakes/temp_dir.h"
#include "fuzz.h"
#include "store/checkpoint_archive.h"
#include "store/hash.h"
#include "store/manifest.h"
#include "store/pack.h"
#include "store/page_map.h"
#include "store/tree_archive.h"
#include "wire/baton.pb.h"
#include "wire/identity.h"

namespace baton::fuzz {
namespace {

namespace fs = std::filesystem;

template <typename T>
T take(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}
void take(Status status) {
  if (!status) throw std::runtime_error(status.error().message());
}

class Seeds {
 public:
  explicit Seeds(fs::path folder) : folder_(std::move(folder)) {}
  void write(const std::string& target, const std::string& name, std::string_view bytes) const {
    fs::create_directories(folder_ / target);
    write_file(folder_ / target / name, bytes);
  }

 private:
  const fs::path folder_;
};

void make_packs(const Seeds& seeds) {
  for (std::uint32_t pages : {0u, 1u, 18u}) {
    auto writer = take(store::PackWriter::create(scratch()));
    for (std::uint32_t i = 0; i < pages; ++i) {
      std::string page(store::kPageBytes, static_cast<char>('a' + i));
      for (std::size_t at = 0; i == 0 && at < 4000; ++at)
        page[at] = static_cast<char>(at * at >> 3);
      take(writer->add(page.data(), store::hash_page(page.data())));
    }
    auto sealed = take(writer->seal());
    seeds.write("pack", fmt::format("pages-{}", pages),
                take(sys::read_file(scratch() / sealed.hash)));
  }
}

void make_page_maps(const Seeds& seeds) {
  store::PageMap map;
  seeds.write("page_map", "empty", encode_page_map(map));
  map.packs = {{store::hash_bytes("a"), 100}, {store::hash_bytes("b"), 16'384}};
  map.runs = {{0x1000, 3, 0, 5},
              {0x4000, 1, store::kZeroPages, 0},
              {0x400000, 90, 0, 8},
              {0x7f0000000000, 16'000, 1, 384}};
  const std::string whole = encode_page_map(map);
  seeds.write("page_map", "four-runs", whole);
  store::PageMap changes;
  changes.packs = {map.packs[1], {store::hash_bytes("c"), 3}};
  changes.runs = {{0x2000, 1, store::kNoPages, 0}, {0x401000, 2, 1, 0}, {0x7f0000001000, 1, 0, 2}};
  seeds.write("page_map", "changed", store::encode_changed_map(whole, changes));
  // The body as it is before compression, which the target compresses.
  const std::string body = {1, 3, 1, 10, 0, 1, 0, 0};
  seeds.write(
      "page_map", "plain-body",
      whole.substr(0, 16) + std::string("\2\0\0\0\0\0\0\0", 8) + whole.substr(24, 24 + 48) + body);
}

void make_manifests(const Seeds& seeds) {
  const store::Manifest manifest{
      JobId(7),
      CheckpointNumber(3),
      R"({"criu_version":"4.2.1","cpu_features":["avx2"],"note":"\u00e4"})",
      {{"images/core-2.img", 4096, 0600, store::hash_bytes("a")},
       {"packs/" + store::hash_bytes("b"), 1u << 20, 0644, store::hash_bytes("b")}}};
  seeds.write("manifest", "two-files", encode_manifest(manifest));
  seeds.write("manifest", "name", "base-files/a+b=c@d,e:f-g_h.i");
}

std::string archive_with(std::string_view description) {
  using Kind = store::ArchiveMember::Kind;
  std::string bytes;
  store::ArchiveWriter writer([&](std::string_view data) {
    bytes += data;
    return Status();
  });
  auto add = [&](Kind kind, const std::string& path, std::string_view content) {
    take(writer.begin_member({kind, path, content.size(), 0600}));
    take(writer.write(content));
    take(writer.end_member());
  };
  add(Kind::Description, "", description);
  add(Kind::File, "images/core-2.img", std::string(300, 'c'));
  add(Kind::File, "empty", "");
  add(Kind::Output, "", "hello\n");
  take(writer.finish());
  return bytes;
}

void make_archives(const Seeds& seeds) {
  seeds.write("archive", "four-members", archive_with(R"({"spec":{"name":"a"},"checkpoint":{}})"));
  seeds.write("import", "job",
              archive_with(R"({"baton_version":"1","exported_wall_ms":1,"spec":{)"
                           R"("name":"a","argv":["L2Jpbi90cnVl"],"env":{"A":"b"},)"
                           R"("workdir":"/tmp","user":"1:1","cpus":0.5,)"
                           R"("memory_bytes":"1048576","interval_ms":1000,)"
                           R"("volumes":[{"host_path":"/a","sandbox_path":"/b"}],)"
                           R"("policy":{"keep_checkpoints":2,"cpu_threshold":0.5}},)"
                           R"("checkpoint":{"number":"7","output_bytes":"6",)"
                           R"("taken_wall_ms":"1","criu_version":"4.2.1",)"
                           R"("cpu_features":["avx"],"pins":["p"],"memory":"tracked"}})"));
  seeds.write("import", "least",
              archive_with(R"({"spec":{"argv":["L2E="]},"checkpoint":{"output_bytes":6}})"));
}

void make_trees(const Seeds& seeds) {
  const fs::path source = scratch() / "source", tar = scratch() / "source.tar";
  fs::create_directories(source / "folder/inner");
  write_file(source / "folder/file", "content");
  write_file(source / "folder/large", std::string(5000, 'l'));
  fs::create_symlink("../file", source / "folder/inner/link");
  fs::create_hard_link(source / "folder/file", source / "folder/again");
  write_file(source / "sparse", "");
  fs::resize_file(source / "sparse", 1u << 20);
  write_file(source / (std::string(120, 'n')), "a long name");
  store::TreeArchiveOptions options;
  options.keep_elsewhere = [](int, const std::string& path,
                              const struct stat&) -> Result<std::optional<std::uint64_t>> {
    if (path.ends_with("large")) return 0;
    return std::nullopt;
  };
  take(store::archive_tree(source, tar, options));
  seeds.write("tree", "ordinary", take(sys::read_file(tar)));
  fs::remove_all(source);

  struct Member {
    const char* name;
    mode_t mode;
    const char* link;
  };
  const std::pair<const char*, std::vector<Member>> hostile[] = {
      {"climbs-out", {{"../guarded", S_IFREG | 0644, ""}}},
      {"absolute", {{"/tmp/baton-escaped", S_IFREG | 0644, ""}}},
      {"through-a-link", {{"l", S_IFLNK | 0777, ".."}, {"l/guarded", S_IFREG | 0644, ""}}},
      {"links-outside", {{"h", S_IFREG | 0644, "../guarded"}}},
      {"folder-becomes-a-link", {{"d", S_IFDIR | 0755, ""}, {"d", S_IFLNK | 0777, ".."}}},
      {"special",
       {{"fifo", S_IFIFO | 0600, ""}, {"whiteout", S_IFCHR, ""}, {"disk", S_IFBLK, ""}}}};
  for (const auto& [name, members] : hostile) {
    archive* writer = archive_write_new();
    archive_write_set_format_pax_restricted(writer);
    archive_write_set_bytes_per_block(writer, 0);
    archive_write_open_filename(writer, tar.c_str());
    archive_entry* entry = archive_entry_new();
    for (const Member& member : members) {
      archive_entry_clear(entry);
      archive_entry_set_pathname(entry, member.name);
      archive_entry_set_mode(entry, member.mode);
      const bool content = S_ISREG(member.mode) && !*member.link;
      archive_entry_set_size(entry, content ? 4 : 0);
      if (S_ISLNK(member.mode)) archive_entry_set_symlink(entry, member.link);
      if (S_ISREG(member.mode) && *member.link) archive_entry_set_hardlink(entry, member.link);
      archive_write_header(writer, entry);
      if (content) archive_write_data(writer, "evil", 4);
    }
    archive_entry_free(entry);
    archive_write_free(writer);
    seeds.write("tree", name, take(sys::read_file(tar)));
  }
}

void make_checkpoint_json(const Seeds& seeds) {
  agent::CheckpointRecord record;
  record.info.memory = "tracked";
  record.kernel = "6.12";
  record.hostname = "job";
  record.root_pid = record.command_pid = 2;
  record.pids = {2, 3};
  record.trees = {{"upper", "tree-0.tar", {{5u << 20, true, {store::hash_bytes("c"), ""}}}}};
  record.base_files.push_back(
      {"/usr/lib/\xc3\xa4", "upper", false, 5, 0100644, 0, 0, 17, store::hash_bytes("f")});
  auto& process = record.attributes.emplace_back();
  process.inner_pid = 2;
  process.threads.emplace_back().inner_tid = 2;
  take(agent::write_record(scratch(), record));
  seeds.write("checkpoint_json", "one-tree", take(sys::read_file(scratch() / "checkpoint.json")));
}

std::string word(std::uint32_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename Entry>
std::string image(std::uint32_t magic, const std::vector<Entry>& entries) {
  std::string bytes = word(criu::kCommonMagic) + word(magic);
  for (const Entry& entry : entries) {
    const std::string message = entry.SerializeAsString();
    bytes += word(static_cast<std::uint32_t>(message.size())) + message;
  }
  return bytes;
}

criu_images::PstreeEntry process(std::uint32_t pid) {
  criu_images::PstreeEntry entry;
  entry.set_pid(pid);
  entry.set_ppid(1);
  entry.set_pgid(2);
  entry.set_sid(2);
  entry.add_threads(pid);
  entry.add_threads(pid + 10);
  return entry;
}

std::vector<criu_images::FileEntry> files() {
  std::vector<criu_images::FileEntry> all(6);
  const std::uint32_t types[] = {1, 4, 5, 2, 17, 6};
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    all[i].set_type(types[i]);
    all[i].set_id(10 + i);
  }
  auto& regular = *all[0].mutable_reg();
  regular.set_id(10);
  regular.set_flags(0);
  regular.set_name("usr/bin/server");
  regular.set_size(5);
  auto& socket = *all[1].mutable_isk();
  socket.set_family(AF_INET6);
  socket.set_type(SOCK_STREAM);
  socket.set_proto(6);
  socket.set_state(10);
  socket.set_src_port(80);
  for (std::uint32_t i = 0; i < 4; ++i) socket.add_src_addr(i);
  all[2].mutable_usk()->set_ino(7);
  all[2].mutable_usk()->set_name(std::string("\0name", 5));
  all[3].mutable_pipe()->set_pipe_id(3);
  auto& timer = *all[4].mutable_tfd();
  timer.set_ticks(1);
  timer.set_settime_flags(1);
  timer.set_vsec(0);
  timer.set_vnsec(0);
  timer.set_isec(1);
  timer.set_insec(0);
  return all;
}

criu_images::MmEntry space() {
  criu_images::MmEntry entry;
  entry.set_exe_file_id(10);
  entry.set_mm_start_brk(0x2000);
  entry.set_mm_brk(0x2800);
  entry.set_mm_start_stack(0x8fff);
  for (std::uint64_t i = 1; i < 9; ++i) {
    auto& vma = *entry.add_vmas();
    vma.set_start(i << 12);
    vma.set_end((i + 1) << 12);
    vma.set_shmid(10);
    vma.set_prot(PROT_READ);
    vma.set_flags(MAP_PRIVATE | MAP_ANONYMOUS);
    vma.set_status(1 | 1 << (i + 5));
  }
  return entry;
}

void make_criu_images(const Seeds& seeds) {
  const fs::path pagemap = scratch() / "pagemap-1.img";
  take(criu::write_pagemap(
      pagemap,
      {9, {{0x1000, 1, criu::pagemap_present}, {0x3000, 5'000'000'000, criu::pagemap_lazy}}}));
  seeds.write("criu_pagemap", "two-runs", take(sys::read_file(pagemap)));

  std::string folder;
  auto add = [&](char number, const std::string& bytes) {
    folder +=
        {number, static_cast<char>(bytes.size() & 0xff), static_cast<char>(bytes.size() >> 8)};
    folder += bytes;
  };
  using namespace criu;
  add(0, image(kPstreeMagic, std::vector{process(2), process(3)}));
  add(1, image(kFilesMagic, files()));
  criu_images::RemapEntry remap;
  remap.set_orig_id(12);
  remap.set_remap_id(13);
  add(2, image(kRemapMagic, std::vector{remap}));
  criu_images::CoreEntry core;
  core.mutable_tc()->set_comm("server");
  add(3, image(kCoreMagic, std::vector{core}));
  add(4, image(kMmMagic, std::vector{space()}));
  criu_images::TaskIds ids;
  ids.set_vm_id(1);
  ids.set_files_id(1);
  add(5, image(kIdsMagic, std::vector{ids}));
  add(6, image(kCoreMagic, std::vector{core}));
  std::vector<criu_images::FdinfoEntry> table(6);
  for (std::uint32_t fd = 0; fd < table.size(); ++fd) {
    table[fd].set_fd(fd);
    table[fd].set_id(10 + fd);
  }
  add(7, image(kFdinfoMagic, table));
  seeds.write("criu_images", "two-processes", folder);
}

void make_agent_words(const Seeds& seeds) {
  std::string words;
  auto say = [&](char kind, const auto& message) {
    const std::string bytes = message.SerializeAsString();
    words += {kind, static_cast<char>(bytes.size() & 0xff), static_cast<char>(bytes.size() >> 8)};
    words += bytes;
  };
  auto list = [](auto& message) {
    auto* incarnation = message.add_incarnations();
    incarnation->set_job_id(1);
    incarnation->set_generation(1);
    incarnation->set_state(v1::INCARNATION_RUNNING);
    incarnation->set_cpu_cores(0.5);
    message.add_staged()->set_job_id(1);
    message.mutable_staged(0)->set_checkpoint(1);
  };
  v1::HeartbeatRequest heartbeat;
  heartbeat.set_node("node-1");
  heartbeat.set_agent_epoch("epoch");
  heartbeat.mutable_sample()->set_cpu_utilization(0.95);
  heartbeat.mutable_sample()->set_memory_utilization(0.5);
  list(heartbeat);
  say('\x09', heartbeat);
  heartbeat.mutable_sample()->set_about_to_fail(true);
  heartbeat.mutable_sample()->set_about_to_fail_cause("disk");
  say('\x09', heartbeat);
  v1::OrderResult result;
  result.set_order_id(8);
  result.set_running_for_ms(5);
  say('\x04', result);
  v1::CheckpointReport report;
  report.set_job_id(1);
  report.set_generation(1);
  report.set_failure(v1::FAILURE_REFUSED);
  report.set_error("no");
  say('\x02', report);
  seeds.write("agent_words", "heartbeats", words);
  words.clear();
  v1::RegisterRequest registration;
  registration.mutable_facts()->set_name("node-3");
  registration.mutable_facts()->set_cpus(4);
  registration.mutable_facts()->set_memory_bytes(1u << 30);
  registration.mutable_facts()->add_cpu_features("avx");
  registration.set_agent_epoch("later");
  registration.set_boot_id("boot");
  list(registration);
  say('\x00', registration);
  registration.mutable_facts()->set_name("node-1");
  say('\x08', registration);
  v1::ExitReport exit;
  exit.set_job_id(1);
  exit.set_generation(1);
  exit.set_code(1);
  exit.set_cause("exited");
  say('\x03', exit);
  seeds.write("agent_words", "registrations", words);
  // A figure that is none was saved as one that nobody could load.
  registration.mutable_facts()->set_cpus(std::numeric_limits<double>::quiet_NaN());
  words.clear();
  say('\x00', registration);
  seeds.write("agent_words", "not-a-number", words);
}

void make_others(const Seeds& seeds) {
  seeds.write(
      "criu_log", "dump",
      "(00.012345)      1: Error (criu/files-ext.c:96): Can't dump file 5 of that type "
      "[600] (unknown /dev/kvm)\n(00.012350) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
  seeds.write(
      "criu_log", "restore",
      "(00.1) 7: Error (criu/x.c:1): Can't open file /usr/lib/x on restore: No such file\n");
  const auto authority = take(wire::make_authority("fuzz", std::chrono::hours(1)));
  seeds.write("certificate", "request", take(wire::make_request(take(wire::make_key()))));
  seeds.write("certificate", "authority", authority.certificate);
  seeds.write("certificate", "token", take(wire::to_text({authority.certificate, "secret"})));
  seeds.write("certificate", "uri", wire::to_uri({wire::PeerKind::Node, "node-1", 7}));
}

}  // namespace
}  // namespace baton::fuzz

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: make_fuzz_seeds FOLDER\n";
    return 2;
  }
  using namespace baton::fuzz;
  const Seeds seeds(arguments[1]);
  make_packs(seeds);
  make_page_maps(seeds);
  make_manifests(seeds);
  make_archives(seeds);
  make_trees(seeds);
  make_checkpoint_json(seeds);
  make_criu_images(seeds);
  make_agent_words(seeds);
  make_others(seeds);
}
