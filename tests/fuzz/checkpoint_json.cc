// checkpoint.json, as an agent reads it to restore and a controller to compare.
#include "agent/engine/record.h"
#include "fuzz.h"
#include "store/file_content.h"
#include "sys/byte_source.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  const auto path = fuzz::scratch() / "checkpoint.json";
  fuzz::write_file(path, fuzz::as_text(data, size));
  auto contents = store::read_contents(**sys::open_source(path));
  fuzz::require_damaged(contents);
  auto record = agent::read_record(fuzz::scratch());
  fuzz::require(record || record.error().code() == ErrorCode::Damaged ||
                record.error().code() == ErrorCode::Unfit);  // another version's
  if (!record) return 0;
  for (const auto& tree : record->trees)
    for (const auto& content : tree.contents) fuzz::require(store::is_well_formed(content));
  // What was understood is understood again.
  fuzz::require(agent::write_record(fuzz::scratch(), *record).has_value());
  auto again = agent::read_record(fuzz::scratch());
  fuzz::require(again && again->pids == record->pids &&
                again->base_files.size() == record->base_files.size());
  return 0;
}
