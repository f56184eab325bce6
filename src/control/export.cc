#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/version.h"
#include "control/archives.h"
#include "store/reader.h"

namespace baton::control {
namespace {

using store::ArchiveMember;

constexpr std::size_t kPartBytes = 256 << 10;

struct Chosen {
  JobId job;
  CheckpointNumber number;
  v1::JobSpec spec;
  v1::Checkpoint info;
};

template <typename Message>
nlohmann::json to_json(const Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  (void)google::protobuf::util::MessageToJsonString(message, &text, options);
  return nlohmann::json::parse(text, nullptr, false);
}

std::string describe(const Chosen& chosen) {
  const nlohmann::json description = {{"baton_version", kVersion},
                                      {"exported_wall_ms", wall_time_ms()},
                                      {"spec", to_json(chosen.spec)},
                                      {"checkpoint", to_json(chosen.info)}};
  return description.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<Chosen> choose(Loop& loop, const v1::CheckpointRef& ref) {
  return loop.with_lock([&](Loop::Locked& l) -> Result<Chosen> {
    BATON_TRY(auto key, l.state.find_checkpoint(ref));
    const JobEntry& entry = l.state.jobs.at(key.first);
    Chosen chosen{key.first, key.second, entry.spec, entry.checkpoints.at(key.second)};
    chosen.spec.set_name(l.state.core.find_job(key.first)->name);
    return chosen;
  });
}

Status add_output(store::ArchiveWriter& archive, const OutputLog& log, std::uint64_t bytes) {
  if (log.length() < bytes)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("of {} bytes of output before it, {} are there", bytes, log.length()));
  BATON_CHECK(archive.begin_member({ArchiveMember::Kind::Output, "", bytes, 0}));
  for (std::uint64_t offset = 0; offset < bytes;) {
    BATON_TRY(auto part, log.read(offset, std::min<std::uint64_t>(kPartBytes, bytes - offset)));
    if (part.data.empty())
      return fail(ErrorCode::FailedPrecondition, "the output before it was taken back meanwhile");
    BATON_CHECK(archive.write(part.data));
    offset += part.data.size();
  }
  return archive.end_member();
}

}  // namespace

Status export_checkpoint(ServiceContext& context, const v1::CheckpointRef& ref,
                         const store::ArchiveWriter::Sink& sink) {
  auto& stores = context.loop.stores();
  BATON_TRY(const Chosen chosen, choose(context.loop, ref));
  BATON_TRY(auto reader, stores.checkpoints.open_reader(chosen.job, chosen.number));
  store::ArchiveWriter archive(sink);
  const std::string description = describe(chosen);
  BATON_CHECK(archive.begin_member({ArchiveMember::Kind::Description, "", description.size(), 0}));
  BATON_CHECK(archive.write(description));
  BATON_CHECK(archive.end_member());
  for (const auto& file : reader->manifest().files) {
    BATON_CHECK(archive.begin_member({ArchiveMember::Kind::File, file.path, file.size, file.mode}));
    BATON_CHECK(reader->read(file, kPartBytes,
                             [&](std::string_view data, bool) { return archive.write(data); }));
    BATON_CHECK(archive.end_member());
  }
  BATON_TRY(auto log, stores.logs.get(chosen.job));
  BATON_CHECK_CTX(add_output(archive, *log, chosen.info.output_bytes()),
                  fmt::format("checkpoint {}", chosen.number));
  return archive.finish();
}

}  // namespace baton::control
