#include <gtest/gtest.h>

#include "wire/baton.pb.h"
#include "wire/text.h"

namespace baton::wire {
namespace {

TEST(WireText, ValidTextStaysAsItIs) {
  for (std::string text : {"", "plain\n", "gr\u00fc\u00dfe", "\u20ac", "\U0001f600", "\U0010ffff"})
    EXPECT_EQ(valid_utf8(text), text);
}

TEST(WireText, OtherBytesAreWrittenOut) {
  EXPECT_EQ(valid_utf8("a\xff"
                       "b"),
            "a\\xffb");
  EXPECT_EQ(valid_utf8("\xc3"), "\\xc3");                    // cut short
  EXPECT_EQ(valid_utf8("\xc0\xaf"), "\\xc0\\xaf");           // overlong
  EXPECT_EQ(valid_utf8("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");  // overlong
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(valid_utf8("\xe2\x82z"), "\\xe2\\x82z");
}

// A reader refuses the whole message for one such string: an agent's stream of results would be
// cut again and again by the same one.
TEST(WireText, ACleanedMessageCanBeRead) {
  v1::AgentMessage message;
  message.mutable_result()->set_error("start command: /\xff: No such file or directory");
  message.mutable_result()->set_log_tail("\xfe");
  message.mutable_result()->set_order_id(7);
  clean_text(message);
  v1::AgentMessage back;
  ASSERT_TRUE(back.ParseFromString(message.SerializeAsString()));
  EXPECT_EQ(back.result().error(), "start command: /\\xff: No such file or directory");
  EXPECT_EQ(back.result().log_tail(), "\\xfe");
  EXPECT_EQ(back.result().order_id(), 7u);
}

TEST(WireText, CleansListsMapsAndWhatIsNested) {
  v1::RegisterRequest request;
  request.mutable_facts()->add_cpu_features("\xff");
  (*request.mutable_facts()->mutable_abilities())["base"] = "/\xff";
  clean_text(request);
  EXPECT_EQ(request.facts().cpu_features(0), "\\xff");
  EXPECT_EQ(request.facts().abilities().at("base"), "/\\xff");
}

TEST(WireText, SaysWhichFieldIsNotText) {
  v1::RunRequest request;
  request.mutable_spec()->set_name("ok");
  EXPECT_TRUE(check_text(request));
  request.mutable_spec()->set_name("x\xff");
  auto status = check_text(request);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ErrorCode::InvalidArgument);
  EXPECT_EQ(status.error().message(), "name \"x\\xff\" is not valid UTF-8");
}

TEST(WireText, SaysWhichMapAndWhichFieldOfAPart) {
  v1::RunRequest request;
  (*request.mutable_spec()->mutable_env())["KEY"] = "\xff";
  EXPECT_EQ(check_text(request).error().message(), "env \"\\xff\" is not valid UTF-8");
  request.mutable_spec()->clear_env();
  request.mutable_spec()->add_volumes()->set_host_path("/\xff");
  EXPECT_EQ(check_text(request).error().message(), "host path \"/\\xff\" is not valid UTF-8");
}

TEST(WireText, ArgumentsMayHaveAnyBytes) {
  v1::RunRequest request;
  request.mutable_spec()->add_argv("\xff");
  EXPECT_TRUE(check_text(request));
}

}  // namespace
}  // namespace baton::wire
