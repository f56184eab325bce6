// The key of an encrypted store, from where a person keeps it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "store/key_ring.h"

namespace baton::control {

// One of them, or none.
struct StoreKeySource {
  std::filesystem::path file;
  std::string command;  // for /bin/sh -c, or a JSON list of words, which are run as they are

  bool given() const { return !file.empty() || !command.empty(); }
};

// 32 bytes as they are, 64 hexadecimal digits, or 32 bytes in base64; white space around the latter
// two. InvalidArgument, which says nothing of the text.
Result<store::Secret> parse_store_key(std::string_view text);

// FailedPrecondition: others may read the file, or the command failed.
Result<store::Secret> read_store_key(const StoreKeySource& source);

// Nothing when no key was given.
Result<std::optional<store::ClusterKeys>> read_store_keys(const StoreKeySource& current,
                                                          const StoreKeySource& old);

}  // namespace baton::control
