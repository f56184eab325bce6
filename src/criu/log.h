// CRIU's log file: which line says why, and its end.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace baton::criu {

// The first line logged as an error, without its time and pid: "fsnotify: Can't dump that handle".
// Errors that CRIU gets along without are passed over. Empty when there is none.
std::string first_error(std::string_view log);

// At most `max_bytes` from the end, starting at a whole line.
std::string tail(std::string_view log, std::size_t max_bytes = 8 << 10);

// The last `max_bytes` of the file; empty when it can't be read (CRIU died before it had one).
std::string read_log(const std::filesystem::path& path, std::size_t max_bytes = 4 << 20);

}  // namespace baton::criu
