// What people type and read: durations, sizes, signals, times, tables of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::cli {

// "500ms", "1s", "2m", "1.5h", "1d". A bare number has no unit and is refused, except 0.
Result<std::int64_t> parse_duration_ms(std::string_view text);
// A limit given as an option of that name: more than 0 and at most 49 days; "" is none, and 0.
Result<std::uint32_t> parse_limit_ms(std::string_view option, std::string_view text);
// "4096", "64MiB", "64M", "1G", "1.5GiB": K, M, G and T are powers of 1024.
Result<std::uint64_t> parse_size_bytes(std::string_view text);
// "TERM", "SIGTERM", "15".
// Digits alone: a "-1" is not taken for the largest number.
Result<std::uint64_t> parse_number(std::string_view text);
Result<int> parse_signal(std::string_view text);

std::string format_duration_ms(double ms);     // "8.3 ms", "2.4 s", "3 m 20 s", "2 h 5 m"
std::string format_size(std::uint64_t bytes);  // "512 B", "3.4 MiB"
std::string format_percent(double fraction);   // "42 %"
// "12 s ago", "3 h ago", "never" for 0.
std::string format_ago(std::int64_t wall_ms, std::int64_t now_wall_ms);
// Local time "14:03:59.120".
std::string format_clock(std::int64_t wall_ms);
// Local "2026-11-23 14:03:59".
std::string format_date(std::int64_t wall_ms);
// A command line as a shell would take it; other bytes than text appear escaped ($'\n').
std::string format_word(std::string_view word);

}  // namespace baton::cli
