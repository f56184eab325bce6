// What a large cluster asks of the services.
#include "control_fixture.h"

namespace baton::control {
namespace {

TEST_F(ControllerTest, AListOfJobsComesInPages) {
  for (const char* name : {"a", "b", "c", "d", "e"}) ASSERT_OK(run(spec(name)));
  v1::ListJobsRequest request;
  request.set_limit(2);
  std::string names, pages;
  for (bool more = true; more;) {
    auto page = call(&v1::Api::Stub::ListJobs, request);
    ASSERT_OK(page);
    for (const auto& job : page->jobs()) names += job.spec().name();
    pages += std::to_string(page->jobs_size());
    more = page->more();
    request.set_after(page->jobs().rbegin()->id());
  }
  EXPECT_EQ(names, "abcde");
  EXPECT_EQ(pages, "221");
  auto all = call(&v1::Api::Stub::ListJobs, v1::ListJobsRequest());
  ASSERT_OK(all);
  EXPECT_EQ(all->jobs_size(), 5);
  EXPECT_FALSE(all->more());
}

class FewJobs : public ControllerTest {
 protected:
  ControllerOptions options() const override {
    ControllerOptions options = ControllerTest::options();
    options.most_jobs = 2;
    return options;
  }
};

TEST_F(FewJobs, NoMoreJobsAreTakenThanTheControllerIsToKnow) {
  ASSERT_OK(run(spec("a")));
  ASSERT_OK(run(spec("b")));
  const auto refused = run(spec("c"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::FailedPrecondition);
  EXPECT_THAT(refused.error().message(), testing::HasSubstr("baton rm"));
  v1::JobRef ref;
  ref.set_name_or_id("a");
  v1::StopRequest stop;
  stop.mutable_job()->set_name_or_id("a");
  ASSERT_OK(call(&v1::Api::Stub::Stop, stop));
  EXPECT_FALSE(run(spec("c"))) << "it has ended, and is known still";
  ASSERT_OK(call(&v1::Api::Stub::Remove, ref));
  ASSERT_OK(run(spec("c")));
}

TEST_F(ControllerTest, NodesAreListedWithTheirCpuFeaturesOnlyWhenAskedFor) {
  fakes::FakeAgent agent(address_, "node-1");
  v1::RegisterRequest registration;
  registration.mutable_facts()->set_name("node-1");
  registration.mutable_facts()->set_kernel("6.18");
  registration.mutable_facts()->add_cpu_features("avx");
  registration.set_agent_epoch("epoch-1");
  grpc::ClientContext context;
  v1::RegisterReply reply;
  ASSERT_OK(wire::check(agent.stub().Register(&context, registration, &reply)));
  v1::ListNodesRequest request;
  auto nodes = call(&v1::Api::Stub::ListNodes, request);
  ASSERT_OK(nodes);
  EXPECT_EQ(nodes->nodes(0).facts().kernel(), "6.18");
  EXPECT_EQ(nodes->nodes(0).facts().cpu_features_size(), 0);
  request.set_cpu_features(true);
  nodes = call(&v1::Api::Stub::ListNodes, request);
  ASSERT_OK(nodes);
  EXPECT_EQ(nodes->nodes(0).facts().cpu_features_size(), 1);
}

std::ptrdiff_t threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST_F(ControllerTest, AStreamOfOrdersTakesNoThread) {
  constexpr int count = 40;
  std::deque<fakes::FakeAgent> agents;
  for (int i = 0; i < count; ++i) {
    agents.emplace_back(address_, fmt::format("node-{}", i));
    ASSERT_OK(agents.back().enroll());
  }
  const auto before = threads();
  for (auto& agent : agents) agent.attach();
  run_on(agents[7], spec("one", "node-7"));
  run_on(agents[31], spec("two", "node-31"));
  // Each fake agent has one itself.
  EXPECT_LT(threads() - before, count + count / 2);
}

}  // namespace
}  // namespace baton::control
