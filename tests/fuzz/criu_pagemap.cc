// CRIU's images of which pages a process has, read and written back.
#include "criu/image_codec.h"
#include "fuzz.h"
#include "quiet_protobuf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  fuzz::quiet_protobuf();
  const auto path = fuzz::scratch() / "pagemap-1.img";
  fuzz::write_file(path, fuzz::as_text(data, size));
  auto image = criu::read_pagemap(path);
  fuzz::require_damaged(image);
  if (!image) return 0;
  std::uint64_t end = 0;
  for (const auto& run : image->runs) {
    fuzz::require(run.address >= end && run.end() >= run.address);
    end = run.end();
  }
  fuzz::require(criu::write_pagemap(path, *image).has_value());
  auto again = criu::read_pagemap(path);
  fuzz::require(again && again->runs == image->runs && again->pages_id == image->pages_id);
  return 0;
}
