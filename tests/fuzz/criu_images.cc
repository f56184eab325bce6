// CRIU's images of a job: what an agent reads and mends, and what `baton inspect` shows. An input
// is a folder of them: for each file its number in kNames, its size in two bytes, its content.
#include <string>

#include "criu/images.h"
#include "criu/process_images.h"
#include "fuzz.h"
#include "quiet_protobuf.h"
#include "sys/file.h"

namespace baton::fuzz {
namespace {

constexpr const char* kNames[] = {"pstree.img", "files.img",    "remap-fpath.img",
                                  "core-2.img", "mm-2.img",     "ids-2.img",
                                  "core-3.img", "fdinfo-1.img", "filelocks.img"};

void fill(const std::filesystem::path& folder, std::string_view bytes) {
  while (bytes.size() >= 3) {
    const auto number = static_cast<unsigned char>(bytes[0]) % std::size(kNames);
    const std::size_t size =
        static_cast<unsigned char>(bytes[1]) | static_cast<unsigned char>(bytes[2]) << 8;
    write_file(folder / kNames[number], bytes.substr(3, size));
    bytes.remove_prefix(std::min(3 + size, bytes.size()));
  }
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  fuzz::quiet_protobuf();
  const auto folder = fuzz::scratch() / "images";
  std::filesystem::create_directory(folder);
  fuzz::fill(folder, fuzz::as_text(data, size));
  auto summary = criu::summarize_images(folder);
  fuzz::require_damaged(summary);
  fuzz::require_damaged(criu::read_processes(sys::sources_in(folder)));
  fuzz::require_damaged(criu::read_lazy_mappings(folder, 2));
  auto mended = criu::mend_timers(folder);
  fuzz::require_damaged(mended);
  if (mended) {
    // Mended is readable, and there is nothing left to mend.
    auto once = sys::read_file(folder / "files.img");
    fuzz::require(criu::mend_timers(folder).has_value());
    auto twice = sys::read_file(folder / "files.img");
    fuzz::require(once && twice && *once == *twice);
    fuzz::require(summary.has_value() == criu::summarize_images(folder).has_value());
  }
  std::filesystem::remove_all(folder);
  return 0;
}
