#include "image_pages.h"

#include <fcntl.h>

#include <set>

#include "agent/engine/base_files.h"
#include "agent/engine/checkpoint_layout.h"
#include "criu/image_codec.h"
#include "sys/file.h"
#include "sys/pagemap.h"

namespace baton::agent {

namespace fs = std::filesystem;

bool has_image_pages(const fs::path& images, pid_t pid) {
  return fs::exists(criu::pagemap_path(images, static_cast<std::uint32_t>(pid)));
}

Result<std::map<std::uint64_t, std::string>> read_image_pages(const fs::path& images, pid_t pid) {
  BATON_TRY(auto image,
            criu::read_pagemap(criu::pagemap_path(images, static_cast<std::uint32_t>(pid))));
  BATON_TRY(Fd file, sys::open_file(criu::pages_path(images, image.pages_id), O_RDONLY));
  std::map<std::uint64_t, std::string> pages;
  std::uint64_t offset = 0;
  for (const auto& run : image.runs) {
    if (!(run.flags & criu::pagemap_present)) continue;
    for (std::uint64_t i = 0; i < run.pages; ++i, offset += sys::page_bytes) {
      std::string& page = pages[run.address + i * sys::page_bytes];
      page.resize(sys::page_bytes);
      BATON_CHECK(sys::pread_all(file.get(), page.data(), page.size(), offset));
    }
  }
  if (fs::file_size(criu::pages_path(images, image.pages_id)) != offset)
    return fail(ErrorCode::Damaged, "pages that no entry speaks of");
  return pages;
}

Result<Assembled> assemble_all(const fs::path& checkpoint, const fs::path& images) {
  BATON_TRY(PageMaps maps, read_maps(checkpoint));
  OpenPacks packs(checkpoint / layout::packs_folder);
  return assemble_memory(checkpoint, std::move(maps), packs, images, false);
}

Status complete_images(const fs::path& checkpoint, const fs::path& images) {
  BATON_CHECK(sys::remove_tree(images));
  BATON_CHECK(sys::make_directories(images, 0700));
  BATON_TRY(auto made, assemble_all(checkpoint, images));
  for (const auto& entry : fs::directory_iterator(checkpoint / "images"))
    if (!made.files.contains(entry.path().filename()))
      BATON_CHECK(link_or_copy(entry.path(), images / entry.path().filename()));
  return {};
}

std::string page_differences(const std::string& a, const std::string& b) {
  constexpr std::size_t rseq_bytes = 32;  // and their alignment
  std::set<std::size_t> blocks;
  std::string text;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    blocks.insert(i / rseq_bytes);
    if (text.size() < 300)
      text += fmt::format("{:03x}: {:02x} {:02x}, ", i, static_cast<unsigned char>(a[i]),
                          static_cast<unsigned char>(b[i]));
  }
  return blocks.size() > 1 ? text : "";
}

}  // namespace baton::agent
