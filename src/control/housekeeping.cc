#include "control/housekeeping.h"

#include "base/log.h"
#include "control/retention.h"
#include "control/verify.h"
#include "store/inventory.h"
#include "wire/text.h"

namespace baton::control {
namespace {

using store::Orphan;

std::set<store::CheckpointKey> recorded_set(Loop& loop) {
  auto keys = recorded_checkpoints(loop);
  return {keys.begin(), keys.end()};
}

// Whether nobody is about to record it, nor has just done so.
bool is_unrecorded(Loop& loop, Bulk& bulk, const store::CheckpointKey& key) {
  auto publishing = bulk.commit_mutex(key.first);
  std::lock_guard lock(*publishing);
  return !recorded_set(loop).contains(key);
}

Result<std::vector<Orphan>> certain_orphans(Loop& loop, Bulk& bulk, std::stop_token stop) {
  auto& checkpoints = loop.stores().checkpoints;
  BATON_TRY(auto first, store::find_orphans(checkpoints, recorded_set(loop)));
  if (first.empty()) return first;
  // What was being deleted is gone now, and a second look tells.
  BATON_CHECK(loop.wait_cleaned(stop));
  BATON_TRY(auto orphans, store::find_orphans(checkpoints, recorded_set(loop)));
  std::erase_if(orphans, [&](const Orphan& orphan) {
    return orphan.kind == Orphan::Kind::Checkpoint && !is_unrecorded(loop, bulk, orphan.key);
  });
  return orphans;
}

const char* describe(Orphan::Kind kind) {
  switch (kind) {
    case Orphan::Kind::Checkpoint: return "a checkpoint that is not recorded";
    case Orphan::Kind::SharedFile: return "a shared file that no checkpoint needs";
    case Orphan::Kind::Foreign: return "not Baton's; it is left alone";
  }
  return "";
}

v1::StoreOrphan to_wire(const Orphan& orphan) {
  v1::StoreOrphan wire;
  wire.set_path(wire::valid_utf8(orphan.path));
  wire.set_what(describe(orphan.kind));
  wire.set_bytes(orphan.bytes);
  return wire;
}

Status remove(Loop& loop, const Orphan& orphan) {
  auto& checkpoints = loop.stores().checkpoints;
  if (orphan.kind == Orphan::Kind::SharedFile)
    return checkpoints.collect_shared_files({std::filesystem::path(orphan.path).filename()});
  const auto [job, number] = orphan.key;
  BATON_CHECK(checkpoints.remove(job, number));
  const bool known =
      loop.with_lock([&, job = job](Loop::Locked& l) { return l.state.jobs.contains(job); });
  std::error_code not_empty;
  if (!known) std::filesystem::remove(checkpoints.directory(job, number).parent_path(), not_empty);
  return {};
}

}  // namespace

Result<v1::StoreOrphansReply> list_orphans(Loop& loop, Bulk& bulk, std::stop_token stop) {
  v1::StoreOrphansReply reply;
  BATON_TRY(auto orphans, certain_orphans(loop, bulk, stop));
  for (const Orphan& orphan : orphans) *reply.add_orphans() = to_wire(orphan);
  return reply;
}

Result<v1::CollectReply> collect(Loop& loop, Bulk& bulk, std::stop_token stop) {
  v1::CollectReply reply;
  auto& checkpoints = loop.stores().checkpoints;
  const std::uint64_t freed_before = checkpoints.freed_bytes();
  const auto jobs = loop.with_lock([&](Loop::Locked& l) {
    std::vector<std::pair<JobId, std::string>> result;
    for (const auto* job : l.state.core.jobs()) result.emplace_back(job->id, job->name);
    return result;
  });
  for (const auto& [job, name] : jobs)
    for (const auto& info : retire_checkpoints(loop, job)) {
      auto& retired = *reply.add_retired();
      retired.set_job_id(job.value);
      retired.set_job_name(name);
      retired.set_number(info.number());
      retired.set_bytes(info.size_bytes());
    }
  BATON_CHECK(loop.wait_cleaned(stop));
  BATON_TRY(auto orphans, certain_orphans(loop, bulk, stop));
  for (const Orphan& orphan : orphans) {
    if (orphan.kind == Orphan::Kind::Foreign) continue;
    BATON_CHECK(remove(loop, orphan));
    spdlog::info("collected {}: {}", orphan.path, describe(orphan.kind));
    *reply.add_orphans() = to_wire(orphan);
  }
  reply.set_freed_bytes(checkpoints.freed_bytes() - freed_before);
  return reply;
}

v1::StoreStatsReply store_stats(Loop& loop) {
  v1::StoreStatsReply reply;
  auto& checkpoints = loop.stores().checkpoints;
  const auto stats = store::measure(checkpoints, recorded_set(loop));
  loop.with_lock([&](Loop::Locked& l) {
    for (const auto& [job, entry] : l.state.jobs) {
      if (entry.checkpoints.empty()) continue;
      reply.set_jobs(reply.jobs() + 1);
      for (const auto& [number, info] : entry.checkpoints)
        if (info.pins_size() > 0) reply.set_pinned(reply.pinned() + 1);
    }
  });
  reply.set_checkpoints(stats.checkpoints);
  reply.set_unreadable(stats.unreadable);
  for (const auto& [name, kind] : stats.kinds) {
    auto& wire = *reply.add_kinds();
    wire.set_kind(name);
    wire.set_files(kind.files);
    wire.set_stored_bytes(kind.stored_bytes);
    wire.set_logical_bytes(kind.logical_bytes);
    reply.set_stored_bytes(reply.stored_bytes() + kind.stored_bytes);
    reply.set_logical_bytes(reply.logical_bytes() + kind.logical_bytes);
  }
  reply.set_page_bytes(stats.page_bytes);
  reply.set_page_stored_bytes(stats.page_stored_bytes);
  reply.set_free_bytes(checkpoints.free_bytes());
  reply.set_encrypted(checkpoints.encrypted());
  reply.set_unencrypted(stats.unencrypted);
  return reply;
}

}  // namespace baton::control
