#include "store/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/nesting.h"
#include "store/hash.h"

namespace baton::store {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxPathBytes = 512;
constexpr std::size_t kMaxComponentBytes = 255;  // no filesystem takes more
constexpr std::size_t kMaxComponents = 8;

std::unexpected<Error> damaged(std::string_view why) {
  return fail(ErrorCode::Damaged, fmt::format("{}: {}", kManifestName, why));
}

bool is_path_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("._+=@,:-").find(c) != std::string_view::npos;
}

Result<StoredFile> decode_file(const json& entry) {
  StoredFile file;
  if (!entry.is_object() || !entry.contains("path") || !entry["path"].is_string() ||
      !entry.contains("size") || !entry["size"].is_number_unsigned() || !entry.contains("mode") ||
      !entry["mode"].is_number_unsigned() || !entry.contains("xxh3_128") ||
      !entry["xxh3_128"].is_string())
    return damaged("a file's entry is incomplete");
  file.path = entry["path"].get<std::string>();
  file.size = entry["size"].get<std::uint64_t>();
  file.mode = entry["mode"].get<std::uint32_t>();
  file.xxh3_128 = entry["xxh3_128"].get<std::string>();
  if (auto sealed = entry.find("sealed"); sealed != entry.end()) {
    if (!sealed->is_string() || !is_hash(sealed->get_ref<const std::string&>()))
      return damaged("a file's entry is wrong");
    file.sealed = sealed->get<std::string>();
  }
  if (!check_path(file.path) || !is_hash(file.xxh3_128)) return damaged("a file's entry is wrong");
  return file;
}

}  // namespace

std::string encode_manifest(const Manifest& manifest) {
  json files = json::array();
  for (const auto& file : manifest.files) {
    files.push_back({{"path", file.path},
                     {"size", file.size},
                     {"mode", file.mode},
                     {"xxh3_128", file.xxh3_128}});
    if (!file.sealed.empty()) files.back()["sealed"] = file.sealed;
  }
  json info = json::parse(manifest.info_json, nullptr, false);
  json body = {{"format", kFormat},
               {"job", manifest.job.value},
               {"number", manifest.number.value},
               {"info", info.is_object() ? info : json::object()},
               {"files", std::move(files)}};
  std::string text = body.dump(-1, ' ', false, json::error_handler_t::replace);
  return fmt::format("{{\"body\":{},\"body_xxh3_128\":\"{}\"}}\n", text, hash_bytes(text));
}

Result<Manifest> decode_manifest(std::string_view text) {
  if (nests_deeper(text)) return damaged("it nests too deeply");
  json whole = json::parse(text, nullptr, false);
  if (!whole.is_object() || !whole.contains("body") || !whole["body"].is_object() ||
      !whole.contains("body_xxh3_128"))
    return damaged("not a manifest");
  const json& body = whole["body"];
  std::string canonical = body.dump(-1, ' ', false, json::error_handler_t::replace);
  if (whole["body_xxh3_128"] != hash_bytes(canonical)) return damaged("its checksum is wrong");
  if (!body.contains("format") || body["format"] != kFormat)
    return damaged("its format is not one this version knows");
  if (!body.contains("job") || !body["job"].is_number_unsigned() || !body.contains("number") ||
      !body["number"].is_number_unsigned() || !body.contains("files") ||
      !body["files"].is_array() || !body.contains("info"))
    return damaged("it is incomplete");
  Manifest manifest;
  manifest.job = JobId(body["job"].get<std::uint64_t>());
  manifest.number = CheckpointNumber(body["number"].get<std::uint64_t>());
  manifest.info_json = body["info"].dump(-1, ' ', false, json::error_handler_t::replace);
  for (const auto& entry : body["files"]) {
    BATON_TRY(StoredFile file, decode_file(entry));
    manifest.files.push_back(std::move(file));
  }
  return manifest;
}

Status check_path(std::string_view path) {
  auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::InvalidArgument,
                fmt::format("file name \"{}\" in a checkpoint: {}",
                            path.substr(0, std::min<std::size_t>(path.size(), 64)), why));
  };
  if (path.empty() || path.size() > kMaxPathBytes) return refuse("empty or too long");
  if (path == kManifestName || path == kSealedManifestName) return refuse("reserved");
  std::size_t components = 0;
  for (std::size_t begin = 0; begin <= path.size();) {
    std::size_t end = std::min(path.find('/', begin), path.size());
    std::string_view component = path.substr(begin, end - begin);
    if (component.empty() || component == "." || component == "..")
      return refuse("not a plain relative path");
    if (component.size() > kMaxComponentBytes) return refuse("a name in it is too long");
    if (!std::ranges::all_of(component, is_path_char)) return refuse("unexpected character");
    if (++components > kMaxComponents) return refuse("too deep");
    begin = end + 1;
  }
  return {};
}

bool in_shared_folder(std::string_view path) {
  return std::ranges::any_of(kSharedFolders, [&](std::string_view folder) {
    return path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/';
  });
}

std::string_view shared_file_hash(std::string_view path) {
  if (!in_shared_folder(path)) return {};
  std::string_view name = path.substr(path.find('/') + 1);
  return is_hash(name) ? name : std::string_view();
}

}  // namespace baton::store
