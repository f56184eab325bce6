#include "criu/image_codec.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <optional>

#include "criu/criu_images.pb.h"
#include "sys/file.h"

namespace baton::criu {
namespace {

namespace fs = std::filesystem;

// IMG_COMMON_MAGIC and PAGEMAP_MAGIC of CRIU's criu/include/magic.h.
constexpr std::uint32_t common_magic = 0x54564319;
constexpr std::uint32_t pagemap_magic = 0x56084025;
constexpr std::uint64_t image_bytes_max = 1u << 30;
constexpr std::uint64_t page_bytes = 4096;

// Splits an image into its messages: two words of magic, then each with its length in front.
class MessageReader {
 public:
  explicit MessageReader(std::string_view content) : rest_(content) {}

  bool magic_is(std::uint32_t wanted) {
    auto common = word(), own = word();
    return common == common_magic && own == wanted;
  }
  bool at_end() const { return rest_.empty(); }
  template <typename Message>
  bool next(Message& message) {
    auto size = word();
    if (!size || *size > rest_.size()) return false;
    bool parsed = message.ParseFromArray(rest_.data(), static_cast<int>(*size));
    rest_.remove_prefix(*size);
    return parsed;
  }

 private:
  std::optional<std::uint32_t> word() {
    std::uint32_t value = 0;
    if (rest_.size() < sizeof value) return std::nullopt;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  std::string_view rest_;
};

void append_word(std::string& out, std::uint32_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename Message>
void append_message(std::string& out, const Message& message) {
  append_word(out, static_cast<std::uint32_t>(message.ByteSizeLong()));
  message.AppendToString(&out);
}

bool add_run(PagemapImage& image, const criu_images::PagemapEntry& entry) {
  PagemapRun run;
  run.address = entry.vaddr();
  run.pages = entry.has_nr_pages() ? entry.nr_pages() : entry.compat_nr_pages();
  // Images of before CRIU 2.10 have no flags.
  run.flags =
      entry.has_flags() ? entry.flags() : (entry.in_parent() ? pagemap_in_parent : pagemap_present);
  if (run.address % page_bytes || run.pages > (~run.address) / page_bytes) return false;
  if (!image.runs.empty() && image.runs.back().end() > run.address) return false;
  image.runs.push_back(run);
  return true;
}

Result<PagemapImage> parse_pagemap(const std::string& content, const std::string& name) {
  auto damaged = [&] {
    return fail(ErrorCode::Damaged, fmt::format("{} is not a whole CRIU image", name));
  };
  MessageReader reader(content);
  criu_images::PagemapHead head;
  if (!reader.magic_is(pagemap_magic) || !reader.next(head)) return damaged();
  PagemapImage image{head.pages_id(), {}};
  criu_images::PagemapEntry entry;
  while (!reader.at_end())
    if (!reader.next(entry) || !add_run(image, entry)) return damaged();
  return image;
}

}  // namespace

Result<PagemapImage> read_pagemap(const fs::path& path) {
  BATON_TRY(const std::string content, sys::read_file(path, image_bytes_max));
  return parse_pagemap(content, path.string());
}

Result<PagemapImage> read_pagemap(const sys::ByteSource& source) {
  BATON_TRY(const std::string content, sys::read_source(source, image_bytes_max));
  return parse_pagemap(content, source.name());
}

Status write_pagemap(const fs::path& path, const PagemapImage& image) {
  std::string content;
  append_word(content, common_magic);
  append_word(content, pagemap_magic);
  criu_images::PagemapHead head;
  head.set_pages_id(image.pages_id);
  append_message(content, head);
  for (const PagemapRun& run : image.runs) {
    criu_images::PagemapEntry entry;
    entry.set_vaddr(run.address);
    entry.set_compat_nr_pages(static_cast<std::uint32_t>(
        std::min<std::uint64_t>(run.pages, std::numeric_limits<std::uint32_t>::max())));
    entry.set_nr_pages(run.pages);
    entry.set_flags(run.flags);
    append_message(content, entry);
  }
  BATON_TRY(Fd file, sys::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  auto written = sys::write_all(file.get(), content);
  if (!written) return fail(std::move(written).error().context(path.string()));
  return {};
}

std::string pagemap_name(std::uint32_t pid) { return fmt::format("pagemap-{}.img", pid); }

std::string pages_name(std::uint32_t pages_id) { return fmt::format("pages-{}.img", pages_id); }

fs::path pagemap_path(const fs::path& directory, std::uint32_t pid) {
  return directory / pagemap_name(pid);
}

fs::path pages_path(const fs::path& directory, std::uint32_t pages_id) {
  return directory / pages_name(pages_id);
}

}  // namespace baton::criu
