#include "agent/engine/record.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "base/nesting.h"
#include "store/hash.h"
#include "store/manifest.h"
#include "store/whole_json.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int format_version = 2;
constexpr int oldest_format = 1;  // no file's content is outside of the archives
constexpr const char* file_name = "checkpoint.json";

json to_json(const CheckpointInfo& info) {
  return {{"output_bytes", info.output_bytes},
          {"frozen_us", info.frozen_us},
          {"total_us", info.total_us},
          {"size_bytes", info.size_bytes},
          {"processes", info.process_count},
          {"threads", info.thread_count},
          {"shape", info.shape},
          {"memory", info.memory},
          {"memory_bytes", info.memory_bytes}};
}

CheckpointInfo info_from(const json& value) {
  CheckpointInfo info;
  value.at("output_bytes").get_to(info.output_bytes);
  value.at("frozen_us").get_to(info.frozen_us);
  value.at("total_us").get_to(info.total_us);
  value.at("size_bytes").get_to(info.size_bytes);
  value.at("processes").get_to(info.process_count);
  value.at("threads").get_to(info.thread_count);
  value.at("shape").get_to(info.shape);
  info.memory = value.value("memory", "");
  info.memory_bytes = value.value("memory_bytes", std::uint64_t{0});
  return info;
}

// Paths are bytes; JSON is UTF-8. Bytes that are not ASCII (and '%') are written as %XX.
std::string encode(const std::string& path) {
  std::string text;
  for (unsigned char c : path)
    if (c < 0x20 || c >= 0x7f || c == '%')
      text += fmt::format("%{:02X}", c);
    else
      text += static_cast<char>(c);
  return text;
}

std::string decode(const std::string& text) {
  std::string path;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      path += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      path += text[i];
    }
  }
  return path;
}

json to_json(const BaseFileRecord& file) {
  return {
      {"path", encode(file.path)}, {"tree", file.tree},         {"directory", file.is_directory},
      {"size", file.size_bytes},   {"mode", file.mode},         {"uid", file.uid},
      {"gid", file.gid},           {"mtime_ns", file.mtime_ns}, {"xxh3_128", file.hash}};
}

BaseFileRecord base_file_from(const json& value) {
  BaseFileRecord file;
  file.path = decode(value.at("path").get<std::string>());
  value.at("tree").get_to(file.tree);
  value.at("directory").get_to(file.is_directory);
  value.at("size").get_to(file.size_bytes);
  value.at("mode").get_to(file.mode);
  value.at("uid").get_to(file.uid);
  value.at("gid").get_to(file.gid);
  value.at("mtime_ns").get_to(file.mtime_ns);
  value.at("xxh3_128").get_to(file.hash);
  // It becomes the name of a file that is read: a device or what belongs to others is not meant.
  const bool sound =
      file.is_directory ? S_ISDIR(file.mode) : S_ISREG(file.mode) && store::is_hash(file.hash);
  if (!sound) throw std::runtime_error("a file of the base is none");
  return file;
}

json to_json(const sys::ProcessAttributes& process) {
  json threads = json::array();
  for (const auto& thread : process.threads)
    threads.push_back({{"tid", thread.inner_tid},
                       {"cpus", thread.cpus},
                       {"io_priority", thread.io_priority},
                       {"timer_slack_ns", thread.timer_slack_ns}});
  return {{"pid", process.inner_pid},
          {"coredump_filter", process.coredump_filter},
          {"personality", process.personality},
          {"threads", threads}};
}

sys::ProcessAttributes attributes_from(const json& value) {
  sys::ProcessAttributes process;
  value.at("pid").get_to(process.inner_pid);
  value.at("coredump_filter").get_to(process.coredump_filter);
  value.at("personality").get_to(process.personality);
  for (const auto& entry : value.at("threads")) {
    auto& thread = process.threads.emplace_back();
    entry.at("tid").get_to(thread.inner_tid);
    entry.at("cpus").get_to(thread.cpus);
    entry.at("io_priority").get_to(thread.io_priority);
    entry.at("timer_slack_ns").get_to(thread.timer_slack_ns);
  }
  return process;
}

json to_json(const TreeRecord& tree) {
  json contents = json::array();
  for (const auto& content : tree.contents)
    contents.push_back(
        {{"size", content.size}, {"sparse", content.sparse}, {"chunks", content.chunks}});
  return {{"name", tree.name}, {"archive", tree.archive}, {"contents", contents}};
}

TreeRecord tree_from(const json& value) {
  TreeRecord tree;
  value.at("name").get_to(tree.name);
  value.at("archive").get_to(tree.archive);
  // Beside checkpoint.json and nowhere else.
  if (!store::check_path(tree.archive) || tree.archive.find('/') != std::string::npos)
    throw std::runtime_error("the archive of a tree lies elsewhere");
  tree.contents = store::contents_from(value);
  return tree;
}

CheckpointRecord record_from(const json& value) {
  CheckpointRecord record;
  record.info = info_from(value.at("info"));
  value.at("kernel").get_to(record.kernel);
  value.at("hostname").get_to(record.hostname);
  value.at("root_pid").get_to(record.root_pid);
  value.at("command_pid").get_to(record.command_pid);
  value.at("pids").get_to(record.pids);
  for (const auto& tree : value.at("trees")) record.trees.push_back(tree_from(tree));
  for (const auto& file : value.at("base_files")) record.base_files.push_back(base_file_from(file));
  for (const auto& process : value.at("attributes"))
    record.attributes.push_back(attributes_from(process));
  return record;
}

}  // namespace

Status write_record(const fs::path& directory, const CheckpointRecord& record) {
  json value = {{"format", format_version},    {"info", to_json(record.info)},
                {"kernel", record.kernel},     {"hostname", record.hostname},
                {"root_pid", record.root_pid}, {"command_pid", record.command_pid},
                {"pids", record.pids},         {"trees", json::array()},
                {"base_files", json::array()}, {"attributes", json::array()}};
  for (const auto& tree : record.trees) value["trees"].push_back(to_json(tree));
  for (const auto& file : record.base_files) value["base_files"].push_back(to_json(file));
  for (const auto& process : record.attributes) value["attributes"].push_back(to_json(process));
  BATON_TRY(Fd file, sys::open_file(directory / file_name, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return sys::write_all(file.get(), value.dump(1) + "\n");
}

Result<CheckpointRecord> read_record(const fs::path& directory) {
  fs::path path = directory / file_name;
  auto damaged = [&](std::string_view why) {
    return fail(ErrorCode::Damaged, fmt::format("{}: {}", path.string(), why));
  };
  auto content = sys::read_file(path);
  if (!content) return damaged(content.error().message());
  if (nests_deeper(*content)) return damaged("it nests too deeply");
  try {
    json value = store::parse_whole_json(*content);
    int format = value.at("format").get<int>();
    if (format < oldest_format || format > format_version)
      return fail(ErrorCode::Unfit,
                  fmt::format("{}: format {} is not known here", path.string(), format));
    return record_from(value);
  } catch (const std::exception& error) {
    return damaged(error.what());
  }
}

}  // namespace baton::agent
