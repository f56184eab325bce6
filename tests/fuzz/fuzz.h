// What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(): libFuzzer runs
// it for as long as wanted (make fuzz), replay_test.cc for a moment with each run of the tests.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "base/result.h"
#include "fakes/temp_dir.h"

namespace baton::fuzz {

// What a decoder promises whatever it is given.
inline void require(bool promise) {
  if (!promise) std::abort();
}

// A decoder that refuses says that the data is wrong, not that it had bad luck.
template <typename T>
void require_damaged(const Result<T>& outcome) {
  require(outcome || outcome.error().code() == ErrorCode::Damaged);
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  require(file.good());
}

// One for all inputs of a target.
inline const std::filesystem::path& scratch() {
  static const fakes::TempDir directory;
  return directory.path();
}

}  // namespace baton::fuzz
