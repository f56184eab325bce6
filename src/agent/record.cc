#include "agent/record.h"

#include <google/protobuf/util/json_util.h>

#include <charconv>

#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOrderName = "incarnation.json";
constexpr const char* kRunningName = "running";
constexpr const char* kExitName = "exit.json";

Status save(const fs::path& path, const google::protobuf::Message& message) {
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text).ok())
    return fail(ErrorCode::Internal, fmt::format("{}: can't be written as JSON", path.string()));
  return sys::write_file_durable(path, text, 0600);
}

Status load(const fs::path& path, google::protobuf::Message& message) {
  BATON_TRY(std::string text, sys::read_file(path, 256u << 20));
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (!google::protobuf::util::JsonStringToMessage(text, &message, options).ok())
    return fail(ErrorCode::Damaged, fmt::format("{}: not what was written there", path.string()));
  return {};
}

std::optional<std::uint64_t> parse(std::string_view text) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Record::Record(const fs::path& incarnations, JobId job, Generation generation)
    : directory_(incarnations / fmt::format("{}.{}", job, generation)) {}

Status Record::create(const pb::StartOrder& order) const {
  BATON_CHECK(sys::make_directories(directory_, 0700));
  return save(directory_ / kOrderName, order);
}

Status Record::mark_running() const {
  return sys::write_file_durable(directory_ / kRunningName, "", 0600);
}

Status Record::save_exit(const pb::ExitReport& report) const {
  return save(directory_ / kExitName, report);
}

Result<pb::StartOrder> Record::order() const {
  pb::StartOrder order;
  BATON_CHECK(load(directory_ / kOrderName, order));
  return order;
}

bool Record::was_running() const {
  std::error_code error;
  return fs::exists(directory_ / kRunningName, error);
}

std::optional<pb::ExitReport> Record::exit_report() const {
  pb::ExitReport report;
  if (!load(directory_ / kExitName, report)) return std::nullopt;
  return report;
}

Status Record::remove_debris() const {
  BATON_CHECK(sys::remove_tree(checkpoints()));
  return sys::remove_tree(restore());
}

Status Record::remove() const { return sys::remove_tree(directory_); }

Result<std::vector<RecordName>> list_records(const fs::path& incarnations) {
  BATON_CHECK(sys::make_directories(incarnations, 0700));
  std::vector<RecordName> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(incarnations, error)) {
    const std::string name = entry.path().filename();
    const auto dot = name.find('.');
    if (dot == std::string::npos) continue;
    auto job = parse(std::string_view(name).substr(0, dot));
    auto generation = parse(std::string_view(name).substr(dot + 1));
    if (job && generation) names.push_back({JobId(*job), Generation(*generation)});
  }
  if (error) return fail_errno(incarnations.string(), error.value());
  return names;
}

}  // namespace baton::agent
