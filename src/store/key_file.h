// The files of a key ring, byte for byte; docs/store-format.md draws them. Internal to
// key_ring.cc.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "store/crypto.h"
#include "store/sealed_file.h"

namespace baton::store::key_file {

using KeyId = std::array<unsigned char, 16>;

// Says which key it is and nothing else of it.
KeyId id_of(const Secret& cluster);
std::string to_text(const KeyId& id);

struct Cluster {
  KeyId current{};
  KeyId previous{};  // all zeroes: none; else jobs' keys may be wrapped with either
};
std::string encode(const Cluster& cluster);
// Damaged.
Result<Cluster> decode_cluster(std::string_view bytes);

// A new one, random.
JobKey make(JobId job);
std::string wrap(const JobKey& key, const Secret& cluster);
// With which key a job's is wrapped, if that much can be read.
std::optional<KeyId> wrapped_with(std::string_view bytes);
// Damaged: it can't be unwrapped.
Result<JobKey> unwrap(std::string_view bytes, JobId job, const Secret& cluster);

}  // namespace baton::store::key_file
