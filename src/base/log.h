// The program's own log, on stderr. One line per fact; no secrets (job environments, file
// contents) ever. Thread-safe.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace baton {

// Names this process in every line ("controller", "agent node-1"). level: trace … error.
void log_init(const std::string& who, const std::string& level = "info");

}  // namespace baton
