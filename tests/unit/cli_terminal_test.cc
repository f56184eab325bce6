#include <gtest/gtest.h>

#include "cli/describe.h"
#include "cli/terminal.h"
#include "wire/baton.pb.h"

namespace baton::cli {
namespace {

TEST(Json, HasStableKeysAndWords) {
  v1::Job job;
  job.set_id(7);
  job.set_state(v1::JOB_RUNNING);
  job.mutable_spec()->add_argv("sleep");
  job.mutable_spec()->add_argv("1");
  (*job.mutable_spec()->mutable_env())["A"] = "b";
  const auto json = to_json(job);
  EXPECT_EQ(json["id"], 7);
  EXPECT_EQ(json["state"], "running");
  EXPECT_EQ(json["spec"]["argv"], nlohmann::ordered_json({"sleep", "1"}));
  EXPECT_EQ(json["spec"]["env"]["A"], "b");
  EXPECT_EQ(json["newest_checkpoint"], 0);
  EXPECT_FALSE(json.contains("exit_code")) << "an absent exit code is not zero";
  EXPECT_TRUE(json["moves"].is_array());
  job.set_exit_code(0);
  EXPECT_EQ(to_json(job)["exit_code"], 0);
}

TEST(Json, EnumsAreWords) {
  EXPECT_EQ(enum_word(v1::NodeState_descriptor(), v1::NODE_GONE_QUIET), "gone-quiet");
  EXPECT_EQ(enum_word(v1::RestartPolicy_descriptor(), v1::RESTART_CHECKPOINT), "checkpoint");
  EXPECT_EQ(enum_word(v1::JobState_descriptor(), 99), "99");
}

TEST(TableText, AlignsColumnsByCharacters) {
  Table table({"NAME", "X"});
  table.add({"\xc3\xbc", "1"});
  table.add({"longer", ""});
  EXPECT_EQ(table.text(), "NAME    X\n\xc3\xbc       1\nlonger\n");
}

TEST(Describe, ShortensBetweenCharacters) {
  EXPECT_EQ(shorten("short", 10), "short");
  EXPECT_EQ(shorten("abcdefghijk", 8), "abcde...");
  EXPECT_EQ(shorten("abcd\xc3\xbc"
                    "efghi",
                    8),
            "abcd...");
}

TEST(Describe, States) {
  v1::Job job;
  job.set_state(v1::JOB_EXITED);
  job.set_exit_code(3);
  EXPECT_EQ(describe_state(job), "exited (3)");
  EXPECT_EQ(describe_protection(job), "-");
}

}  // namespace
}  // namespace baton::cli
