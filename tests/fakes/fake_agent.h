// An agent made of gRPC calls alone: it does what a test tells it to, and nothing by itself.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "store/hash.h"
#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"
#include "wire/status.h"

// A Result or Status that must be good; says what is wrong with it.
#define ASSERT_OK(expression)                                                             \
  do {                                                                                    \
    auto outcome = (expression);                                                          \
    ASSERT_TRUE(outcome.has_value()) << #expression << ": " << outcome.error().message(); \
  } while (false)

namespace baton::fakes {

class FakeAgent {
 public:
  using Files = std::map<std::string, std::string>;

  FakeAgent(const std::string& address, std::string node, std::string epoch = "epoch-1")
      : FakeAgent(*wire::open_channel(address), std::move(node), std::move(epoch)) {}
  FakeAgent(const std::shared_ptr<grpc::Channel>& channel, std::string node,
            std::string epoch = "epoch-1")
      : node_(std::move(node)), epoch_(std::move(epoch)), stub_(v1::Cluster::NewStub(channel)) {}
  ~FakeAgent() { detach(); }

  v1::Cluster::Stub& stub() { return *stub_; }

  Result<v1::RegisterReply> enroll(std::vector<v1::Incarnation> incarnations = {}) {
    v1::RegisterRequest request;
    auto* facts = request.mutable_facts();
    facts->set_name(node_);
    facts->set_cpus(2);
    facts->set_memory_bytes(std::uint64_t{4} << 30);
    facts->set_criu_version("4.2.1");
    facts->set_cgroup_limits(true);
    request.set_agent_epoch(epoch_);
    for (auto& incarnation : incarnations) *request.add_incarnations() = incarnation;
    grpc::ClientContext context;
    v1::RegisterReply reply;
    BATON_CHECK(wire::check(stub_->Register(&context, request, &reply)));
    return reply;
  }

  Result<v1::HeartbeatReply> heartbeat(std::vector<v1::Incarnation> incarnations = {}) {
    v1::HeartbeatRequest request;
    request.set_node(node_);
    request.set_agent_epoch(epoch_);
    for (auto& incarnation : incarnations) *request.add_incarnations() = incarnation;
    grpc::ClientContext context;
    v1::HeartbeatReply reply;
    BATON_CHECK(wire::check(stub_->Heartbeat(&context, request, &reply)));
    return reply;
  }

  void attach() {
    context_ = std::make_unique<grpc::ClientContext>();
    stream_ = stub_->Attach(context_.get());
    v1::AgentMessage hello;
    hello.mutable_hello()->set_node(node_);
    hello.mutable_hello()->set_agent_epoch(epoch_);
    ASSERT_TRUE(stream_->Write(hello));
    reader_ = std::thread([this] {
      v1::Order order;
      while (stream_->Read(&order)) {
        std::lock_guard lock(mutex_);
        orders_.push_back(order);
        changed_.notify_all();
      }
      std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    });
  }
  void detach() {
    if (!stream_) return;
    context_->TryCancel();
    reader_.join();
    stream_->Finish();
    stream_.reset();
  }

  // The next order; one that has no field set when none comes within ten seconds.
  v1::Order next_order() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !orders_.empty(); });
    if (orders_.empty()) return {};
    v1::Order order = orders_.front();
    orders_.pop_front();
    return order;
  }
  // The controller ends the stream of orders within ten seconds.
  bool await_cut() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return ended_; });
  }
  std::size_t waiting_orders() {
    std::lock_guard lock(mutex_);
    return orders_.size();
  }

  void answer(const v1::Order& order, v1::OrderResult result = {}) {
    v1::AgentMessage message;
    result.set_order_id(order.order_id());
    *message.mutable_result() = result;
    EXPECT_TRUE(stream_->Write(message));
  }

  Result<std::uint64_t> ship(std::uint64_t job, std::uint64_t generation, std::uint64_t offset,
                             const std::string& data) {
    v1::OutputChunk chunk;
    chunk.set_job_id(job);
    chunk.set_generation(generation);
    chunk.set_offset(offset);
    chunk.set_data(data);
    grpc::ClientContext context;
    v1::OutputReply reply;
    BATON_CHECK(wire::check(stub_->ShipOutput(&context, chunk, &reply)));
    return reply.next_offset();
  }

  Result<std::uint64_t> upload(std::uint64_t job, std::uint64_t generation,
                               std::uint64_t output_bytes, const Files& files, bool hold = false,
                               std::int64_t taken_wall_ms = 0) {
    grpc::ClientContext context;
    v1::UploadReply reply;
    auto stream = stub_->UploadCheckpoint(&context, &reply);
    v1::UploadPart part;
    part.mutable_header()->set_job_id(job);
    part.mutable_header()->set_generation(generation);
    part.mutable_header()->set_hold(hold);
    part.mutable_header()->mutable_info()->set_output_bytes(output_bytes);
    part.mutable_header()->mutable_info()->set_criu_version("4.2.1");
    part.mutable_header()->mutable_info()->set_taken_wall_ms(taken_wall_ms);
    stream->Write(part);
    for (const auto& [path, data] : files) {
      part.mutable_files()->clear_parts();
      v1::FilePart& file = *part.mutable_files()->add_parts();
      file.set_path(path);
      file.set_size(data.size());
      file.set_mode(0600);
      file.set_data(data);
      file.set_xxh3_128(store::hash_bytes(data));
      file.set_last(true);
      stream->Write(part);
    }
    part.set_done(true);
    stream->Write(part);
    stream->WritesDone();
    BATON_CHECK(wire::check(stream->Finish()));
    return reply.number();
  }

  Result<Files> download(std::uint64_t job, std::uint64_t generation, std::uint64_t checkpoint) {
    v1::DownloadRequest request;
    request.set_node(node_);
    request.set_job_id(job);
    request.set_generation(generation);
    request.set_checkpoint(checkpoint);
    grpc::ClientContext context;
    auto stream = stub_->DownloadCheckpoint(&context, request);
    Files files;
    std::string path;
    v1::DownloadPart part;
    while (stream->Read(&part)) {
      for (const v1::FilePart& file : part.files().parts()) {
        if (!file.path().empty()) path = file.path();
        files[path] += file.data();
      }
    }
    BATON_CHECK(wire::check(stream->Finish()));
    return files;
  }

  Status report_exit(std::uint64_t job, std::uint64_t generation, int code,
                     std::uint64_t output_bytes) {
    v1::ExitReport report;
    report.set_job_id(job);
    report.set_generation(generation);
    report.set_code(code);
    report.set_output_bytes(output_bytes);
    report.set_cause("exited");
    grpc::ClientContext context;
    v1::Empty reply;
    return wire::check(stub_->ReportExit(&context, report, &reply));
  }

 private:
  const std::string node_;
  const std::string epoch_;
  std::unique_ptr<v1::Cluster::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AgentMessage, v1::Order>> stream_;
  std::thread reader_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::Order> orders_;
  bool ended_ = false;
};

inline v1::Incarnation running(std::uint64_t job, std::uint64_t generation) {
  v1::Incarnation incarnation;
  incarnation.set_job_id(job);
  incarnation.set_generation(generation);
  incarnation.set_state(v1::INCARNATION_RUNNING);
  return incarnation;
}

}  // namespace baton::fakes
