// What users may ask for, and the policy's file.
#include <gtest/gtest.h>

#include <limits>

#include "control/options.h"
#include "control/validate.h"
#include "wire/channel.h"

namespace baton::control {
namespace {

struct BadSpec {
  const char* what;
  std::function<void(v1::JobSpec&)> spoil;
  const char* said;
};

v1::JobSpec good_spec() {
  v1::JobSpec spec;
  spec.set_name("my_job.1-a");
  spec.add_argv("/bin/sh");
  spec.add_argv("quote \" and\nnewline \xff");
  spec.add_argv("");
  (*spec.mutable_env())["KEY"] = "a=b";
  spec.set_workdir("/tmp");
  spec.set_user("nobody:nogroup");
  spec.set_memory_bytes(1 << 20);
  spec.set_cpus(0.5);
  spec.set_interval_ms(50);
  auto* volume = spec.add_volumes();
  volume->set_host_path("/srv");
  volume->set_sandbox_path("/data");
  return spec;
}

TEST(Validate, GoodSpecsPass) {
  auto status = check_job_spec(good_spec());
  EXPECT_TRUE(status) << status.error().message();
  v1::JobSpec least;
  least.add_argv("x");
  EXPECT_TRUE(check_job_spec(least));
}

TEST(Validate, BadSpecsAreRefusedWithASentence) {
  const std::string nul("a\0b", 3);
  const BadSpec table[] = {
      {"no argv", [](auto& s) { s.clear_argv(); }, "no command"},
      {"empty command", [](auto& s) { s.set_argv(0, ""); }, "no command"},
      {"NUL", [&](auto& s) { s.add_argv(nul); }, "NUL"},
      {"too long", [](auto& s) { s.add_argv(std::string(3 << 20, 'x')); }, "most"},
      {"name: space", [](auto& s) { s.set_name("a b"); }, "job name"},
      {"name: slash", [](auto& s) { s.set_name("a/b"); }, "job name"},
      {"name: digits", [](auto& s) { s.set_name("123"); }, "number"},
      {"name: long", [](auto& s) { s.set_name(std::string(64, 'a')); }, "job name"},
      {"name: dash", [](auto& s) { s.set_name("-x"); }, "job name"},
      {"name: dots", [](auto& s) { s.set_name(".."); }, "job name"},
      {"env: empty", [](auto& s) { (*s.mutable_env())[""] = "x"; }, "environment"},
      {"env: equals", [](auto& s) { (*s.mutable_env())["A=B"] = "x"; }, "environment"},
      {"workdir", [](auto& s) { s.set_workdir("tmp"); }, "absolute"},
      {"rootfs", [](auto& s) { s.set_rootfs("./root"); }, "absolute"},
      {"volume host", [](auto& s) { s.mutable_volumes(0)->set_host_path("x"); }, "absolute"},
      {"volume root", [](auto& s) { s.mutable_volumes(0)->set_sandbox_path("/"); }, "root"},
      {"memory", [](auto& s) { s.set_memory_bytes((1 << 20) - 1); }, "1 MiB"},
      {"cpus: negative", [](auto& s) { s.set_cpus(-1); }, "CPUs"},
      {"cpus: NaN", [](auto& s) { s.set_cpus(std::numeric_limits<double>::quiet_NaN()); }, "CPUs"},
      {"interval", [](auto& s) { s.set_interval_ms(49); }, "50 ms"},
      {"user", [](auto& s) { s.set_user("a:b:c"); }, "user"},
      {"user: empty group", [](auto& s) { s.set_user("a:"); }, "user"},
      {"stdin", [](auto& s) { s.set_stdin_data(std::string(wire::kMaxStdinBytes + 1, 'x')); },
       "standard input"},
      {"policy", [](auto& s) { s.mutable_policy()->set_cpu_threshold(1.5); }, "CPU threshold"},
      {"policy: clear",
       [](auto& s) {
         s.mutable_policy()->set_cpu_threshold(0.5);
         s.mutable_policy()->set_cpu_clear(0.6);
       },
       "above the threshold"},
      {"policy: keep", [](auto& s) { s.mutable_policy()->set_keep_checkpoints(0); }, "keep"},
      {"policy: command",
       [](auto& s) { s.mutable_policy()->set_health_command(std::string(4097, 'x')); },
       "put it into a script"},
      {"capabilities",
       [](auto& s) {
         for (int i = 0; i < 65; ++i) s.add_capabilities("kill");
       },
       "more than there are"},
  };
  for (const auto& row : table) {
    auto spec = good_spec();
    row.spoil(spec);
    auto status = check_job_spec(spec);
    ASSERT_FALSE(status) << row.what;
    EXPECT_EQ(status.error().code(), ErrorCode::InvalidArgument) << row.what;
    EXPECT_NE(status.error().message().find(row.said), std::string::npos)
        << row.what << ": " << status.error().message();
  }
}

TEST(Policy, AFileAndOverridesMakeTheClustersPolicy) {
  auto policy =
      parse_policy("cpu_threshold = 0.6\ncpu_for_ms = 2000\nhealth_command = \"x\"\n", "p");
  ASSERT_TRUE(policy) << policy.error().message();
  EXPECT_EQ(policy->cpu_for_ms(), 2000u);
  EXPECT_FALSE(policy->has_cpu_clear());
  ControllerOptions options;
  options.policy = *policy;
  auto whole = cluster_policy(options);
  ASSERT_TRUE(whole) << whole.error().message();
  EXPECT_EQ(whole->health_command(), "x");
  EXPECT_LE(whole->cpu_clear(), 0.6);
  EXPECT_EQ(whole->keep_checkpoints(), 3u);
}

TEST(Policy, WrongFilesAreRefusedWithTheirPlace) {
  for (auto [text, said] :
       {std::pair{"cpu_threshold = ", "line 1"},
        std::pair{"\ncpu_treshold = 0.5\n", "line 2: a policy has no field"},
        std::pair{"cpu_threshold = \"high\"", "cpu_threshold"},
        std::pair{"cpu_for_ms = -1", "cpu_for_ms"}, std::pair{"[cpu]\nthreshold = 1", "wrong kind"},
        std::pair{"cpu_threshold = 2.0", "above 0"}}) {
    auto policy = parse_policy(text, "p.toml");
    ASSERT_FALSE(policy) << text;
    EXPECT_EQ(policy.error().code(), ErrorCode::InvalidArgument);
    EXPECT_NE(policy.error().message().find(said), std::string::npos) << policy.error().message();
  }
}

TEST(Duration, NeedsAUnit) {
  EXPECT_EQ(*parse_duration_ms("3s"), 3'000u);
  EXPECT_EQ(*parse_duration_ms("500ms"), 500u);
  EXPECT_EQ(*parse_duration_ms("1.5m"), 90'000u);
  EXPECT_EQ(*parse_duration_ms("0"), 0u);
  for (const char* bad : {"", "3", "s", "-1s", "3 s", "3sec", "nan s", "99999h"})
    EXPECT_FALSE(parse_duration_ms(bad)) << bad;
}

}  // namespace
}  // namespace baton::control
