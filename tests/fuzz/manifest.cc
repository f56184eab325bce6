// Manifests, and the names of files in a checkpoint.
#include "store/manifest.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/nesting.h"
#include "fuzz.h"
#include "store/hash.h"

namespace baton::fuzz {
namespace {

void check_name(std::string_view text) {
  if (!store::check_path(text)) return;
  const std::filesystem::path path(text);
  require(path.is_relative() && path.lexically_normal() == path);
  require(*path.begin() != ".." && text.find('\0') == text.npos);
}

void decode(std::string_view text) {
  auto manifest = store::decode_manifest(text);
  require_damaged(manifest);
  if (!manifest) return;
  for (const auto& file : manifest->files) require(store::check_path(file.path).has_value());
  auto again = store::decode_manifest(store::encode_manifest(*manifest));
  require(again && again->files == manifest->files && again->job == manifest->job &&
          again->number == manifest->number);
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  const std::string_view text = fuzz::as_text(data, size);
  fuzz::check_name(text);
  fuzz::decode(text);
  // Chance does not find checksums: once more as the body of a manifest that has the right one.
  if (nests_deeper(text, 32)) return 0;
  const auto body = nlohmann::json::parse(text, nullptr, false);
  if (!body.is_object()) return 0;
  const std::string canonical = (body.contains("body") ? body["body"] : body)
                                    .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  fuzz::decode(fmt::format("{{\"body\":{},\"body_xxh3_128\":\"{}\"}}", canonical,
                           store::hash_bytes(canonical)));
  return 0;
}
