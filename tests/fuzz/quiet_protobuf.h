// Protobuf logs each message that lacks a required field.
#pragma once

#include <google/protobuf/stubs/logging.h>

namespace baton::fuzz {

inline void quiet_protobuf() {
  [[maybe_unused]] static const auto before = google::protobuf::SetLogHandler(nullptr);
}

}  // namespace baton::fuzz
