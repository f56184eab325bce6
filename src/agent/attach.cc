#include "agent/attach.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <pthread.h>

#include <algorithm>

#include "base/log.h"
#include "wire/channel.h"
#include "wire/text.h"

namespace baton::agent {
namespace {

constexpr std::chrono::milliseconds kFirstRetry{50};
constexpr std::chrono::milliseconds kLastRetry{1'000};
// Who is shut out stays so until a person does something.
constexpr std::chrono::milliseconds kShutOutRetry{30'000};
constexpr std::size_t kRememberedOrders = 1'000;

}  // namespace

Attachment::Attachment(std::string node, std::string agent_epoch,
                       std::function<void(const pb::Order&)> on_order)
    : node_(std::move(node)),
      agent_epoch_(std::move(agent_epoch)),
      on_order_(std::move(on_order)) {}

Attachment::~Attachment() { stop(); }

void Attachment::start(const wire::Dialer& dialer) {
  channel_ = dialer.open();
  stub_ = pb::Cluster::NewStub(channel_);
  thread_ = std::thread([this] { loop(); });
}

void Attachment::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_) context_->TryCancel();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Attachment::close() {
  {
    std::lock_guard lock(mutex_);
    open_ = false;
    if (context_) context_->TryCancel();
  }
  std::lock_guard lock(dispatch_mutex_);
  dispatching_ = false;
  std::lock_guard ledger(ledger_mutex_);
  ledger_.clear();
}

void Attachment::registered() {
  {
    std::lock_guard lock(mutex_);
    open_ = true;
    ++registrations_;
  }
  changed_.notify_all();
}

void Attachment::loop() {
  ::pthread_setname_np(::pthread_self(), "orders");
  auto retry = kFirstRetry;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return open_ || stopping_; });
    if (stopping_) return;
    const std::uint64_t registration = registrations_;
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    const grpc::Status status = serve();
    // A stream that lived for a while was a good one; one refused at once will be refused again.
    const bool lived = std::chrono::steady_clock::now() - began > kLastRetry;
    if (lived) retry = kFirstRetry;
    note_end(status, lived);
    const bool shut_out = status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
    lock.lock();
    changed_.wait_for(lock, retry, [&] { return stopping_ || registrations_ != registration; });
    retry = std::min(retry * 2, shut_out ? kShutOutRetry : kLastRetry);
  }
}

// Once for each change, however often it is tried.
void Attachment::note_end(const grpc::Status& status, bool lived) {
  if (status.ok() || status.error_code() == grpc::StatusCode::CANCELLED) return;
  if (!lived && status.error_message() == last_end_) return;
  last_end_ = status.error_message();
  spdlog::info("orders: stream ended: {}", last_end_);
}

grpc::Status Attachment::serve() {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || !open_) return grpc::Status::OK;
    context_ = &context;
    // Under both locks, so that close() either sees this stream or comes before it.
    std::lock_guard dispatch(dispatch_mutex_);
    dispatching_ = true;
  }
  std::shared_ptr<Stream> stream = stub_->Attach(&context);
  pb::AgentMessage hello;
  hello.mutable_hello()->set_node(node_);
  hello.mutable_hello()->set_agent_epoch(agent_epoch_);
  if (stream->Write(hello)) {
    {
      std::lock_guard lock(write_mutex_);
      stream_ = stream;
    }
    pb::Order order;
    while (stream->Read(&order)) take_order(order);
  }
  {
    std::lock_guard lock(write_mutex_);
    stream_.reset();
  }
  {
    std::lock_guard lock(mutex_);
    context_ = nullptr;
  }
  return stream->Finish();
}

void Attachment::take_order(pb::Order order) {
  OrderLedger::Seen seen;
  {
    std::lock_guard lock(dispatch_mutex_);
    if (!dispatching_) return;
    {
      std::lock_guard ledger(ledger_mutex_);
      seen = ledger_.take(order);
    }
    if (seen.is_new) on_order_(order);
  }
  if (seen.result) write(*seen.result);
}

void Attachment::send(const pb::OrderResult& result) {
  std::optional<pb::OrderResult> theirs;
  {
    std::lock_guard lock(ledger_mutex_);
    theirs = ledger_.settle(result);
  }
  if (theirs) write(*theirs);
}

void Attachment::write(const pb::OrderResult& result) {
  pb::AgentMessage message;
  *message.mutable_result() = result;
  wire::clean_text(message);
  std::lock_guard lock(write_mutex_);
  if (!stream_ || !stream_->Write(message))
    spdlog::info("result of order {} waits for the next stream", result.order_id());
}

OrderLedger::Seen OrderLedger::take(pb::Order& order) {
  const auto [entry, is_new] = entries_.try_emplace(order.order_id());
  if (!is_new) return {.is_new = false, .result = entry->second.result};
  entry->second.ours = ++last_ours_;
  theirs_[last_ours_] = order.order_id();
  order.set_order_id(last_ours_);
  // The controller repeats only what it has no result of, and that is not so much.
  while (entries_.size() > kRememberedOrders && entries_.begin()->second.result)
    entries_.erase(entries_.begin());
  return {.is_new = true, .result = {}};
}

std::optional<pb::OrderResult> OrderLedger::settle(pb::OrderResult result) {
  const auto found = theirs_.find(result.order_id());
  if (found == theirs_.end()) return std::nullopt;
  result.set_order_id(found->second);
  entries_[found->second].result = result;
  theirs_.erase(found);
  return result;
}

void OrderLedger::clear() {
  entries_.clear();
  theirs_.clear();
}

}  // namespace baton::agent
