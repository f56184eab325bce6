#include <gtest/gtest.h>

#include <csignal>

#include "cli/units.h"

namespace baton::cli {
namespace {

TEST(Duration, TakesUnits) {
  EXPECT_EQ(parse_duration_ms("500ms"), 500);
  EXPECT_EQ(parse_duration_ms("1s"), 1000);
  EXPECT_EQ(parse_duration_ms("1.5s"), 1500);
  EXPECT_EQ(parse_duration_ms("2m"), 120'000);
  EXPECT_EQ(parse_duration_ms("1h"), 3'600'000);
  EXPECT_EQ(parse_duration_ms("0"), 0);
}

TEST(Duration, RefusesTheRestAndNamesIt) {
  for (const char* text : {"soon", "", "5", "s", "1.2.3s", "5 s", "-1s", "infs", "1e999s", "1x"}) {
    const auto parsed = parse_duration_ms(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), ErrorCode::InvalidArgument);
    EXPECT_NE(parsed.error().message().find(text), std::string::npos);
  }
}

TEST(Size, TakesUnits) {
  EXPECT_EQ(parse_size_bytes("4096"), 4096u);
  EXPECT_EQ(parse_size_bytes("64MiB"), 64u << 20);
  EXPECT_EQ(parse_size_bytes("64M"), 64u << 20);
  EXPECT_EQ(parse_size_bytes("1G"), 1u << 30);
  EXPECT_EQ(parse_size_bytes("1.5K"), 1536u);
  for (const char* text : {"lots", "", "1X", "-1M", "99999999999T"})
    EXPECT_FALSE(parse_size_bytes(text)) << text;
}

TEST(Signal, TakesNamesAndNumbers) {
  EXPECT_EQ(parse_signal("TERM"), SIGTERM);
  EXPECT_EQ(parse_signal("SIGUSR1"), SIGUSR1);
  EXPECT_EQ(parse_signal("usr1"), SIGUSR1);
  EXPECT_EQ(parse_signal("sigterm"), SIGTERM);
  EXPECT_EQ(parse_signal("9"), 9);
  for (const char* text : {"", "0", "-9", "1.5", "999", "NOPE", "SIG"})
    EXPECT_FALSE(parse_signal(text)) << text;
}

TEST(Number, IsDigitsAlone) {
  EXPECT_EQ(parse_number("0"), 0u);
  EXPECT_EQ(parse_number("18446744073709551615"), UINT64_MAX);
  for (const char* text : {"", "-1", "+1", " 1", "1x", "1.0", "18446744073709551616"})
    EXPECT_FALSE(parse_number(text)) << text;
}

TEST(Format, IsHumane) {
  EXPECT_EQ(format_duration_ms(8.25), "8.2 ms");
  EXPECT_EQ(format_duration_ms(250), "250 ms");
  EXPECT_EQ(format_duration_ms(2'400), "2.4 s");
  EXPECT_EQ(format_duration_ms(200'000), "3 m 20 s");
  EXPECT_EQ(format_size(512), "512 B");
  EXPECT_EQ(format_size(3'565'158), "3.4 MiB");
  EXPECT_EQ(format_ago(0, 1), "never");
  EXPECT_EQ(format_ago(1'000, 13'000), "12 s ago");
  EXPECT_EQ(format_ago(13'000, 1'000), "0 s ago");  // a clock that was set back
}

TEST(Word, CanBePastedIntoAShell) {
  EXPECT_EQ(format_word("plain-1.5"), "plain-1.5");
  EXPECT_EQ(format_word(""), "''");
  EXPECT_EQ(format_word("two words"), "'two words'");
  EXPECT_EQ(format_word("it's"), "'it'\\''s'");
  EXPECT_EQ(format_word("a\nb'c\\"), "$'a\\nb\\'c\\\\'");
}

}  // namespace
}  // namespace baton::cli
