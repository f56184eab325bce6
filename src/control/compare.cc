#include "control/compare.h"

#include <charconv>
#include <optional>

#include "store/checkpoint_diff.h"
#include "store/reader.h"
#include "wire/text.h"

namespace baton::control {
namespace {

constexpr int kMaxFilesTold = 10'000;
constexpr std::uint64_t kMaxMapBytes = 1u << 30;

// A checkpoint that stays while it is looked at.
struct Side {
  std::unique_ptr<store::Reader> reader;
  sys::OpenSource files;
  std::map<std::uint32_t, std::string> maps;  // by pid, their paths
  std::set<std::string> trees;                // the archives' names
  std::uint64_t untracked_bytes = 0;
};

std::optional<std::uint32_t> pid_of_map(std::string_view path) {
  if (!path.starts_with("memory/") || !path.ends_with(".map")) return std::nullopt;
  path = path.substr(7, path.size() - 11);
  std::uint32_t pid = 0;
  auto [end, error] = std::from_chars(path.data(), path.data() + path.size(), pid);
  if (error != std::errc() || end != path.data() + path.size()) return std::nullopt;
  return pid;
}

Result<Side> open_side(Loop& loop, const v1::JobRef& job, std::uint64_t number) {
  v1::CheckpointRef ref;
  *ref.mutable_job() = job;
  ref.set_number(number);
  BATON_TRY(auto key,
            loop.with_lock([&](Loop::Locked& l) { return l.state.find_checkpoint(ref); }));
  auto& checkpoints = loop.stores().checkpoints;
  Side side;
  BATON_TRY(side.reader, checkpoints.open_reader(key.first, key.second));
  side.files = side.reader->sources();
  for (const auto& file : side.reader->manifest().files) {
    if (auto pid = pid_of_map(file.path)) side.maps[*pid] = file.path;
    if (file.path.starts_with("tree-") && file.path.ends_with(".tar")) side.trees.insert(file.path);
    if (file.path.starts_with("images/pages-")) side.untracked_bytes += file.size;
  }
  return side;
}

Result<store::PageMap> read_map(const Side& side, std::uint32_t pid) {
  auto found = side.maps.find(pid);
  if (found == side.maps.end()) return store::PageMap();
  BATON_TRY(const auto source, side.files(found->second));
  BATON_TRY(const std::string bytes, sys::read_source(*source, kMaxMapBytes));
  auto map = store::decode_page_map(bytes);
  if (!map) return fail(map.error().context(found->second));
  return map;
}

Status compare_memory(const Side& a, const Side& b, v1::DiffReply& reply) {
  std::set<std::uint32_t> pids;
  for (const Side* side : {&a, &b})
    for (const auto& [pid, path] : side->maps) pids.insert(pid);
  for (std::uint32_t pid : pids) {
    BATON_TRY(const auto map_a, read_map(a, pid));
    BATON_TRY(const auto map_b, read_map(b, pid));
    BATON_TRY(const auto diff, store::diff_pages(map_a, sys::sources_below(a.files, "packs/"),
                                                 map_b, sys::sources_below(b.files, "packs/")));
    auto& process = *reply.add_processes();
    process.set_pid(pid);
    process.set_same(diff.same);
    process.set_changed(diff.changed);
    process.set_appeared(diff.appeared);
    process.set_vanished(diff.vanished);
    if (!a.maps.contains(pid)) process.set_only_in("b");
    if (!b.maps.contains(pid)) process.set_only_in("a");
  }
  return {};
}

void tell(v1::DiffReply& reply, const std::string& path, const store::TreeEntry* a,
          const store::TreeEntry* b) {
  if (reply.files_size() >= kMaxFilesTold) {
    reply.set_files_cut(true);
    return;
  }
  auto& file = *reply.add_files();
  file.set_path(wire::valid_utf8(path));
  file.set_change(!a ? "appeared" : !b ? "vanished" : "changed");
  if (a) file.set_bytes_a(a->bytes);
  if (b) file.set_bytes_b(b->bytes);
}

Result<std::map<std::string, store::TreeEntry>> list(const Side& side, const std::string& tree) {
  if (!side.trees.contains(tree)) return std::map<std::string, store::TreeEntry>();
  BATON_TRY(const auto description, side.files("checkpoint.json"));
  BATON_TRY(const auto contents, store::read_contents(*description));
  BATON_TRY(const auto archive, side.files(tree));
  auto of_tree = contents.find(tree);
  if (of_tree == contents.end()) return store::list_tree(*archive);
  return store::list_tree(*archive, of_tree->second);
}

Status compare_files(const Side& a, const Side& b, v1::DiffReply& reply) {
  std::set<std::string> trees;
  for (const Side* side : {&a, &b}) trees.insert(side->trees.begin(), side->trees.end());
  for (const std::string& tree : trees) {
    BATON_TRY(const auto files_a, list(a, tree));
    BATON_TRY(const auto files_b, list(b, tree));
    const std::string name = tree.substr(0, tree.size() - 4) + ":";
    for (const auto& [path, entry] : files_a) {
      auto other = files_b.find(path);
      if (other == files_b.end())
        tell(reply, name + path, &entry, nullptr);
      else if (other->second.state != entry.state)
        tell(reply, name + path, &entry, &other->second);
    }
    for (const auto& [path, entry] : files_b)
      if (!files_a.contains(path)) tell(reply, name + path, nullptr, &entry);
  }
  return {};
}

}  // namespace

Result<v1::DiffReply> compare(ServiceContext& context, const v1::DiffRequest& request) {
  v1::DiffReply reply;
  BATON_TRY(const Side a, open_side(context.loop, request.job(), request.a()));
  BATON_TRY(const Side b, open_side(context.loop, request.job(), request.b()));
  BATON_CHECK(compare_memory(a, b, reply));
  BATON_CHECK(compare_files(a, b, reply));
  reply.set_untracked_bytes_a(a.untracked_bytes);
  reply.set_untracked_bytes_b(b.untracked_bytes);
  return reply;
}

}  // namespace baton::control
