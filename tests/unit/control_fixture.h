// A controller in this process, on a unix socket in a directory of its own, and a client.
#pragma once

#include <gtest/gtest.h>

#include <future>

#include "base/clock.h"
#include "control/controller.h"
#include "fakes/fake_agent.h"
#include "fakes/temp_dir.h"

namespace baton::control {

class ControllerTest : public testing::Test {
 protected:
  using Files = fakes::FakeAgent::Files;

  void SetUp() override { start(); }

  void start() {
    ControllerOptions options = this->options();
    options.data = directory_.path();
    options.listen = {"127.0.0.1:0"};
    auto started = Controller::start(options);
    ASSERT_TRUE(started) << started.error().message();
    controller_ = std::move(*started);
    address_ = "unix:" + controller_->socket();
    api_ = v1::Api::NewStub(*wire::open_channel(address_));
    store_ = v1::Store::NewStub(*wire::open_channel(address_));
  }
  virtual ControllerOptions options() const {
    ControllerOptions options;
    options.lease_ms = 60'000;
    options.policy.set_keep_checkpoints(2);
    options.policy.set_standby(false);
    return options;
  }
  void restart() {
    controller_.reset();
    start();
  }

  template <typename Stub, typename Request, typename Reply>
  Result<Reply> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                     const std::type_identity_t<Request>& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    Reply reply;
    if constexpr (std::is_same_v<Stub, v1::Store::Stub>)
      BATON_CHECK(wire::check(((*store_).*method)(&context, request, &reply)));
    else
      BATON_CHECK(wire::check(((*api_).*method)(&context, request, &reply)));
    return reply;
  }
  static v1::JobSpec spec(const std::string& name, const std::string& node = "") {
    v1::JobSpec spec;
    spec.set_name(name);
    spec.add_argv("/bin/true");
    spec.set_interval_ms(1'000);
    spec.set_node(node);
    return spec;
  }
  Result<v1::Job> run(const v1::JobSpec& spec) {
    v1::RunRequest request;
    *request.mutable_spec() = spec;
    return call(&v1::Api::Stub::Run, request);
  }
  static v1::JobRef ref(const std::string& name) {
    v1::JobRef ref;
    ref.set_name_or_id(name);
    return ref;
  }
  v1::Job job(const std::string& name) {
    auto job = call(&v1::Api::Stub::GetJob, ref(name));
    EXPECT_TRUE(job) << job.error().message();
    return job ? *job : v1::Job();
  }
  std::future<Result<v1::MoveReply>> migrate(const std::string& name, const std::string& to) {
    return std::async(std::launch::async, [this, name, to] {
      v1::MigrateRequest request;
      *request.mutable_job() = ref(name);
      request.set_to(to);
      return call(&v1::Api::Stub::Migrate, request);
    });
  }
  // What `baton logs` would show.
  std::string logs(const std::string& name, bool follow = false) {
    v1::LogsRequest request;
    *request.mutable_job() = ref(name);
    request.set_follow(follow);
    grpc::ClientContext context;
    auto stream = api_->Logs(&context, request);
    std::string text;
    v1::LogsPart part;
    while (stream->Read(&part)) text += part.data();
    EXPECT_TRUE(stream->Finish().ok());
    return text;
  }
  std::vector<v1::Event> events(const std::string& kind) {
    grpc::ClientContext context;
    auto stream = api_->Events(&context, v1::EventsRequest());
    std::vector<v1::Event> found;
    v1::Event event;
    while (stream->Read(&event))
      if (event.kind() == kind) found.push_back(event);
    EXPECT_TRUE(stream->Finish().ok());
    return found;
  }

  // Registers, attaches, and takes the start order of a new job through to "running".
  std::uint64_t run_on(fakes::FakeAgent& agent, const v1::JobSpec& spec) {
    auto job = run(spec);
    EXPECT_TRUE(job) << job.error().message();
    if (!job) return 0;
    auto order = agent.next_order();
    EXPECT_TRUE(order.has_start()) << order.ShortDebugString();
    EXPECT_EQ(order.start().job_id(), job->id());
    agent.answer(order);
    await_state(job->spec().name(), v1::JOB_RUNNING);  // the answer travels by a stream of its own
    return job->id();
  }
  // Waits for a state, which events announce without polling.
  void await_state(const std::string& name, v1::JobState state) {
    controller_->loop().wait({}, boot_time_ms() + 10'000, [&](Loop::Locked& l) {
      const auto* record = l.state.core.find_job(std::string_view(name));
      return record && static_cast<int>(record->state) == static_cast<int>(state);
    });
    EXPECT_EQ(job(name).state(), state) << v1::JobState_Name(job(name).state());
  }

  fakes::TempDir directory_;
  std::unique_ptr<Controller> controller_;
  std::string address_;
  std::unique_ptr<v1::Api::Stub> api_;
  std::unique_ptr<v1::Store::Stub> store_;
};

}  // namespace baton::control
