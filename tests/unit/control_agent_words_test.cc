// What agents say is bounded, and figures are such that one can calculate with them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "control/agent_words.h"
#include "wire/text.h"

namespace baton::control {
namespace {

using testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

v1::RegisterRequest registration() {
  v1::RegisterRequest request;
  request.mutable_facts()->set_name("node-1");
  request.mutable_facts()->set_cpus(4);
  request.set_agent_epoch("epoch");
  return request;
}

TEST(AgentWords, AnOrdinaryRegistrationIsTakenAsItIs) {
  v1::RegisterRequest request = registration();
  request.set_boot_id("boot");
  auto* incarnation = request.add_incarnations();
  incarnation->set_job_id(7);
  incarnation->set_generation(3);
  incarnation->set_state(v1::INCARNATION_HELD);
  incarnation->set_cpu_cores(0.5);
  request.add_incarnations()->set_job_id(8);
  request.add_staged()->set_job_id(9);
  const auto input = take_registration(request);
  ASSERT_TRUE(input) << input.error().message();
  EXPECT_EQ(input->facts.id, NodeId("node-1"));
  EXPECT_EQ(input->facts.cpus, 4);
  EXPECT_EQ(input->epoch, "epoch");
  EXPECT_EQ(input->boot_id, "boot");
  ASSERT_EQ(input->incarnations.size(), 2u);
  EXPECT_EQ(input->incarnations[0].job, JobId(7));
  EXPECT_EQ(input->incarnations[0].generation, Generation(3));
  EXPECT_EQ(input->incarnations[0].state, core::IncarnationState::Held);
  EXPECT_EQ(input->incarnations[0].cpu_cores, 0.5);
  EXPECT_EQ(input->incarnations[1].cpu_cores, -1);
  ASSERT_EQ(input->staged.size(), 1u);
  EXPECT_EQ(input->staged[0].job, JobId(9));
}

TEST(AgentWords, WhatIsWithoutMeasureIsRefused) {
  const auto refused = [](const std::function<void(v1::RegisterRequest&)>& spoil) -> std::string {
    v1::RegisterRequest request = registration();
    spoil(request);
    const auto input = take_registration(request);
    if (input) return "taken";
    EXPECT_EQ(input.error().code(), ErrorCode::InvalidArgument);
    return input.error().message();
  };
  EXPECT_THAT(refused([](auto& r) { r.mutable_facts()->set_name("../x"); }),
              HasSubstr("not a node name"));
  EXPECT_THAT(refused([](auto& r) { r.clear_agent_epoch(); }), HasSubstr("no epoch"));
  EXPECT_THAT(refused([](auto& r) { r.set_agent_epoch(std::string(1 << 20, 'x')); }),
              HasSubstr("an epoch of 1048576 bytes"));
  EXPECT_THAT(refused([](auto& r) { r.set_boot_id(std::string(1000, 'x')); }),
              HasSubstr("a boot's id"));
  EXPECT_THAT(refused([](auto& r) {
                for (int i = 0; i < 100'000; ++i) r.mutable_facts()->add_cpu_features("feature");
              }),
              HasSubstr("facts of"));
  EXPECT_THAT(refused([](auto& r) {
                for (int i = 0; i <= kMaxListed; ++i) r.add_incarnations();
              }),
              HasSubstr("a list of 65537 incarnations"));
  EXPECT_THAT(refused([](auto& r) {
                for (int i = 0; i <= kMaxListed; ++i) r.add_staged();
              }),
              HasSubstr("65537 copies"));

  v1::HeartbeatRequest heartbeat;
  heartbeat.mutable_sample()->set_about_to_fail_cause(std::string(1 << 20, 'x'));
  EXPECT_FALSE(take_heartbeat(heartbeat));
  heartbeat.clear_sample();
  EXPECT_TRUE(take_heartbeat(heartbeat));
  for (int i = 0; i <= kMaxListed; ++i) heartbeat.add_incarnations();
  EXPECT_FALSE(take_heartbeat(heartbeat));
}

TEST(AgentWords, FiguresCanBeCalculatedWith) {
  for (double odd : {kNan, kInfinity, -kInfinity, -1.0, 1e300}) {
    v1::RegisterRequest request = registration();
    request.mutable_facts()->set_cpus(odd);
    request.add_incarnations()->set_cpu_cores(odd);
    request.mutable_incarnations(0)->set_state(static_cast<v1::IncarnationState>(77));
    const auto registered = take_registration(request);
    ASSERT_TRUE(registered);
    EXPECT_TRUE(registered->facts.cpus >= 0 && registered->facts.cpus <= 65'536) << odd;
    EXPECT_EQ(registered->incarnations[0].state, core::IncarnationState::Starting);
    const double cores = registered->incarnations[0].cpu_cores;
    EXPECT_TRUE(cores == -1 || (cores >= 0 && cores <= 65'536)) << odd;

    v1::HeartbeatRequest heartbeat;
    heartbeat.mutable_sample()->set_cpu_utilization(odd);
    heartbeat.mutable_sample()->set_memory_utilization(odd);
    const auto beat = take_heartbeat(heartbeat);
    ASSERT_TRUE(beat);
    for (double share : {beat->sample.cpu_utilization, beat->sample.memory_utilization})
      EXPECT_TRUE(share >= 0 && share <= 1'000) << odd;

    v1::OrderResult result;
    result.set_frozen_for_ms(odd);
    result.set_fetch_ms(odd);
    result.set_restore_ms(odd);
    result.set_running_for_ms(odd);
    const auto done = take_result(result);
    for (double ms : {done.frozen_for_ms, done.fetch_ms, done.restore_ms, done.running_for_ms})
      EXPECT_TRUE(ms >= 0 && ms <= 1e12) << odd;
  }
}

TEST(AgentWords, LongTextsAreCutAndStayText) {
  std::string umlauts;
  while (umlauts.size() < 1 << 20) umlauts += "ä";
  v1::OrderResult result;
  result.set_error("first" + umlauts);
  result.set_log_tail("x" + umlauts + "last");
  const auto done = take_result(result);
  EXPECT_LT(done.error.size(), 17u << 10);
  EXPECT_TRUE(done.error.starts_with("first"));
  EXPECT_LT(done.log_tail.size(), 65u << 10);
  EXPECT_TRUE(done.log_tail.ends_with("last"));
  EXPECT_EQ(wire::valid_utf8(done.error), done.error);
  EXPECT_EQ(wire::valid_utf8(done.log_tail), done.log_tail);

  v1::CheckpointReport report;
  report.set_error(umlauts);
  report.set_log_tail(umlauts);
  EXPECT_LT(take_report(report).error.size() + take_report(report).log_tail.size(), 82u << 10);
  v1::ExitReport exit;
  exit.set_detail(umlauts);
  EXPECT_LT(take_exit(exit).detail.size(), 17u << 10);
}

}  // namespace
}  // namespace baton::control
