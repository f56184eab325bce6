// The portable archive that `baton import` reads.
#include <string>

#include "fuzz.h"
#include "sealed_archive.h"
#include "store/checkpoint_archive.h"
#include "store/manifest.h"

namespace baton::fuzz {
namespace {

void read(std::string_view bytes, std::size_t part_bytes) {
  store::ArchiveReader reader([&]() -> Result<std::string> {
    std::string part(bytes.substr(0, part_bytes));
    bytes.remove_prefix(part.size());
    return part;
  });
  const std::size_t whole_bytes = bytes.size();
  for (;;) {
    auto member = reader.next();
    require_damaged(member);
    if (!member || !*member) return;
    if ((*member)->kind == store::ArchiveMember::Kind::File)
      require(store::check_path((*member)->path).has_value());
    std::uint64_t taken = 0;
    auto hash = reader.read([&](std::string_view data) {
      taken += data.size();
      return Status();
    });
    require_damaged(hash);
    require(taken <= whole_bytes && (!hash || taken == (*member)->size));
    if (!hash) return;
  }
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  const std::string_view bytes = as_text(data, size);
  read(bytes, 1 + size % 100);
  read(seal_archive(bytes), 1 + size % 1000);
  return 0;
}
