#include "cli/units.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <map>
#include <optional>

namespace baton::cli {
namespace {

struct Quantity {
  double value = 0;
  std::string_view unit;
};

// A non-negative or negative decimal number and the letters after it.
std::optional<Quantity> split_quantity(std::string_view text) {
  const auto end = text.find_first_not_of("+-.0123456789");
  const std::string number(text.substr(0, end));
  char* rest = nullptr;
  const double value = std::strtod(number.c_str(), &rest);
  if (number.empty() || *rest != '\0' || !std::isfinite(value)) return std::nullopt;
  std::string_view unit = end == std::string_view::npos ? std::string_view() : text.substr(end);
  return Quantity{value, unit};
}

std::tm local_time(std::int64_t wall_ms) {
  const std::time_t seconds = wall_ms / 1000;
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  return parts;
}

}  // namespace

Result<std::int64_t> parse_duration_ms(std::string_view text) {
  static const std::map<std::string_view, double> kUnits = {
      {"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"min", 60e3}, {"h", 3600e3}, {"d", 86400e3}};
  const auto quantity = split_quantity(text);
  const auto unit = quantity ? kUnits.find(quantity->unit) : kUnits.end();
  const bool bare_zero = quantity && quantity->unit.empty() && quantity->value == 0;
  if (bare_zero) return 0;
  if (unit == kUnits.end())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("\"{}\" is not a duration; write 500ms, 1s, 2m or 1h", text));
  const double ms = quantity->value * unit->second;
  if (ms < 0 || ms > 1e15)
    return fail(ErrorCode::InvalidArgument, fmt::format("the duration {} is out of range", text));
  return static_cast<std::int64_t>(std::llround(ms));
}

Result<std::uint32_t> parse_limit_ms(std::string_view option, std::string_view text) {
  if (text.empty()) return 0;
  auto ms = parse_duration_ms(text);
  if (!ms) return fail(std::move(ms).error().context(option));
  if (*ms < 1 || *ms > std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{} {}: it must be more than 0 and at most 49d", option, text));
  return static_cast<std::uint32_t>(*ms);
}

Result<std::uint64_t> parse_size_bytes(std::string_view text) {
  static const std::map<std::string_view, int> kShifts = {
      {"", 0},   {"B", 0},    {"K", 10}, {"KB", 10},  {"KiB", 10}, {"k", 10},
      {"M", 20}, {"MB", 20},  {"m", 20}, {"MiB", 20}, {"G", 30},   {"GB", 30},
      {"g", 30}, {"GiB", 30}, {"T", 40}, {"TB", 40},  {"TiB", 40}};
  const auto quantity = split_quantity(text);
  const auto shift = quantity ? kShifts.find(quantity->unit) : kShifts.end();
  if (shift == kShifts.end())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("\"{}\" is not a size; write 64MiB, 512K or 1G", text));
  const double bytes = std::ldexp(quantity->value, shift->second);
  if (bytes < 0 || bytes >= std::ldexp(1.0, 63))
    return fail(ErrorCode::InvalidArgument, fmt::format("the size {} is out of range", text));
  return static_cast<std::uint64_t>(bytes);
}

Result<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size())
    return fail(ErrorCode::InvalidArgument, fmt::format("\"{}\" is not a number", text));
  return number;
}

Result<int> parse_signal(std::string_view text) {
  std::string upper(text);
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string_view name = upper;
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (int number = 1; number < SIGRTMIN; ++number) {
    const char* abbreviation = ::sigabbrev_np(number);
    if (abbreviation && name == abbreviation) return number;
  }
  const auto quantity = split_quantity(text);
  if (quantity && quantity->unit.empty() && quantity->value == std::floor(quantity->value) &&
      quantity->value >= 1 && quantity->value <= SIGRTMAX)
    return static_cast<int>(quantity->value);
  return fail(ErrorCode::InvalidArgument,
              fmt::format("\"{}\" is not a signal; write TERM, KILL, USR1 or a number", text));
}

std::string format_duration_ms(double ms) {
  if (ms < 10) return fmt::format("{:.1f} ms", ms);
  if (ms < 1000) return fmt::format("{:.0f} ms", ms);
  if (ms < 10'000) return fmt::format("{:.1f} s", ms / 1000);
  const auto seconds = static_cast<std::int64_t>(ms / 1000);
  if (seconds < 60) return fmt::format("{} s", seconds);
  if (seconds < 3600) return fmt::format("{} m {} s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{} h {} m", seconds / 3600, seconds % 3600 / 60);
  return fmt::format("{} d {} h", seconds / 86400, seconds % 86400 / 3600);
}

std::string format_size(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return fmt::format("{:.{}f} {}", value, value < 100 ? 1 : 0, unit);
}

std::string format_percent(double fraction) { return fmt::format("{:.0f} %", fraction * 100); }

std::string format_ago(std::int64_t wall_ms, std::int64_t now_wall_ms) {
  if (wall_ms == 0) return "never";
  const std::int64_t seconds = std::max<std::int64_t>(0, (now_wall_ms - wall_ms) / 1000);
  if (seconds < 120) return fmt::format("{} s ago", seconds);
  if (seconds < 2 * 3600) return fmt::format("{} m ago", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{} h ago", seconds / 3600);
  return fmt::format("{} d ago", seconds / 86400);
}

std::string format_clock(std::int64_t wall_ms) {
  const std::tm parts = local_time(wall_ms);
  return fmt::format("{:02}:{:02}:{:02}.{:03}", parts.tm_hour, parts.tm_min, parts.tm_sec,
                     wall_ms % 1000);
}

std::string format_date(std::int64_t wall_ms) {
  const std::tm parts = local_time(wall_ms);
  return fmt::format("{}-{:02}-{:02} {:02}:{:02}:{:02}", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string format_word(std::string_view word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%^";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos)
    return std::string(word);
  bool controls = false;
  for (const char c : word) controls |= static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  std::string out = controls ? "$'" : "'";
  for (const char c : word) {
    if (controls && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)) {
      out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : fmt::format("\\x{:02x}", c);
    } else if (c == '\'') {
      out += controls ? "\\'" : "'\\''";
    } else if (c == '\\' && controls) {
      out += "\\\\";
    } else {
      out += c;
    }
  }
  return out + "'";
}

}  // namespace baton::cli
