// Archives of private trees: unpacked, and listed for a comparison of two checkpoints.
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>

#include "fuzz.h"
#include "store/checkpoint_diff.h"
#include "store/tree_archive.h"
#include "sys/byte_source.h"
#include "sys/file.h"

namespace baton::fuzz {
namespace {

constexpr std::string_view kGuarded = "nobody may change this";

// The folder in which the tree lies, beside what is not to be touched.
std::filesystem::path outside() { return scratch() / "outside"; }

// Makes the checksum of every header right: chance does not.
std::string seal(std::string_view bytes) {
  constexpr std::size_t block_bytes = 512, sum_at = 148, sum_bytes = 8, magic_at = 257;
  std::string out(bytes);
  for (std::size_t at = 0; at + block_bytes <= out.size(); at += block_bytes) {
    if (out.compare(at + magic_at, 5, "ustar") != 0) continue;
    unsigned sum = sum_bytes * ' ';
    for (std::size_t i = 0; i < block_bytes; ++i)
      if (i < sum_at || i >= sum_at + sum_bytes) sum += static_cast<unsigned char>(out[at + i]);
    out.replace(at + sum_at, sum_bytes, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  }
  return out;
}

// Nothing outside of the tree came to be, went or changed.
void require_confined() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(outside()))
    names.insert(entry.path().filename());
  require(names == std::set<std::string>{"guarded", "tree", "tree.tar"});
  auto guarded = sys::read_file(outside() / "guarded");
  require(guarded && *guarded == kGuarded);
  struct stat info {};
  require(::stat((outside() / "guarded").c_str(), &info) == 0 && info.st_nlink == 1);
}

void unpack(std::string_view bytes) {
  const auto archive = outside() / "tree.tar", tree = outside() / "tree";
  std::filesystem::create_directory(outside());
  write_file(archive, bytes);
  write_file(outside() / "guarded", kGuarded);
  require(sys::make_directories(tree).has_value());
  store::ContentElsewhere elsewhere;
  elsewhere.contents = {{10, false, {""}}};
  (void)store::extract_tree(archive, tree, elsewhere);
  require_confined();
  require(sys::remove_tree(tree).has_value());
  require_damaged(store::list_tree(**sys::open_source(archive), elsewhere.contents));
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  if (::geteuid() != 0) return 0;  // nobody else unpacks trees
  unpack(seal(as_text(data, size)));
  return 0;
}
