// Long calls (followers, waiters) written as plain blocking code: each runs on a thread of its own
// with a stop token that fires when the client goes away or the controller shuts down, so nobody
// polls for either.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>

#include "base/result.h"
#include "wire/status.h"

namespace baton::control {

// Counts the calls that are under way, and ends them all.
class CallGroup {
 public:
  // Each has a thread. Somebody whose clients never end must leave some to the others.
  static constexpr int kMostThreads = 4'000, kMostThreadsOfOne = 500;

  // A call without a thread of its own. False: the group is stopping; do not start.
  bool enter() {
    std::lock_guard lock(mutex_);
    if (stop_.stop_requested()) return false;
    ++running_;
    return true;
  }
  // One with a thread. Unavailable: the group is stopping. FailedPrecondition: `who`, or everybody
  // together, has as many as they may. "", who may do everything, is counted and not limited.
  Status enter(const std::string& who);
  void leave() {
    std::lock_guard lock(mutex_);
    --running_;
    idle_.notify_all();
  }
  void leave(const std::string& who);
  std::stop_token stop_token() const { return stop_.get_token(); }
  void request_stop() {
    std::lock_guard lock(mutex_);
    stop_.request_stop();
  }
  void wait_idle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return running_ == 0; });
  }

 private:
  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int running_ = 0;
  int threads_ = 0;
  std::map<std::string, int> threads_of_;  // never 0
};

// What the kinds of calls below have in common: a thread of its own, and the ends that a call
// can have. Owns itself.
template <typename Call, typename Reactor>
class BlockingReactor : public Reactor {
 public:
  using Body = std::function<grpc::Status(Call&)>;

  // `who`: see CallGroup::enter() and Access::who().
  static Reactor* start(CallGroup& group, std::string who, Body body) {
    auto* call = new Call(group);
    call->begin(std::move(who), std::move(body));
    return call;
  }
  std::stop_token stop_token() const { return stop_.get_token(); }

 protected:
  explicit BlockingReactor(CallGroup& group)
      : group_(group), on_group_stop_(group.stop_token(), [this] { stop_.request_stop(); }) {}

  // Starts one operation and waits for its end. False: it came to nothing, or the client is gone.
  template <typename Start>
  bool await(Start start) {
    std::unique_lock lock(mutex_);
    pending_ = true;
    lock.unlock();
    start();
    lock.lock();
    changed_.wait(lock, [&] { return !pending_; });
    return ok_ && !stop_.stop_requested();
  }
  void operation_done(bool ok) {
    std::lock_guard lock(mutex_);
    pending_ = false;
    ok_ = ok;
    changed_.notify_all();
  }

 private:
  void begin(std::string who, Body body) {
    who_ = std::move(who);
    if (const Status entered = group_.enter(who_); !entered) {
      this->Finish(wire::to_grpc(entered.error()));
      return;
    }
    entered_ = true;
    holders_ = 2;
    try {
      std::thread([this, body = std::move(body)] {
        this->Finish(body(static_cast<Call&>(*this)));
        let_go();
      }).detach();
    } catch (const std::system_error& error) {
      holders_ = 1;
      this->Finish(wire::to_grpc(
          Error(ErrorCode::Unavailable, fmt::format("thread for a call: {}", error.what()))));
    }
  }
  void OnCancel() override { stop_.request_stop(); }
  // Finish() may still be returning on the call's thread, or OnDone() be running there.
  void OnDone() override { let_go(); }
  void let_go() {
    if (--holders_ > 0) return;
    CallGroup& group = group_;
    const bool entered = entered_;
    const std::string who = std::move(who_);
    delete this;
    if (entered) group.leave(who);
  }

  CallGroup& group_;
  std::string who_;
  bool entered_ = false;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_group_stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool pending_ = false;
  bool ok_ = true;
  std::atomic<int> holders_ = 1;  // gRPC, and the call's thread
};

// A server stream. `body` writes parts through write(), which blocks until the part is on its way
// and is false once the client is gone, and returns the final status.
template <typename Part>
class BlockingStream final
    : public BlockingReactor<BlockingStream<Part>, grpc::ServerWriteReactor<Part>> {
 public:
  explicit BlockingStream(CallGroup& group) : BlockingStream::BlockingReactor(group) {}

  bool write(Part part) {
    part_ = std::move(part);
    return this->await([this] { this->StartWrite(&part_); });
  }

 private:
  void OnWriteDone(bool ok) override { this->operation_done(ok); }
  Part part_;
};

// A client stream with a single answer. `body` takes parts through read(), which blocks until one
// is there and is false after the last, or once the client is gone.
template <typename Part>
class BlockingUpload final
    : public BlockingReactor<BlockingUpload<Part>, grpc::ServerReadReactor<Part>> {
 public:
  explicit BlockingUpload(CallGroup& group) : BlockingUpload::BlockingReactor(group) {}

  bool read(Part& part) {
    return this->await([this, &part] { this->StartRead(&part); });
  }

 private:
  void OnReadDone(bool ok) override { this->operation_done(ok); }
};

// A call with a single answer.
class BlockingUnary final : public BlockingReactor<BlockingUnary, grpc::ServerUnaryReactor> {
 public:
  explicit BlockingUnary(CallGroup& group) : BlockingReactor(group) {}

  static grpc::ServerUnaryReactor* start(CallGroup& group, std::string who,
                                         std::function<grpc::Status(std::stop_token)> body) {
    return BlockingReactor::start(
        group, std::move(who),
        [body = std::move(body)](BlockingUnary& call) { return body(call.stop_token()); });
  }
};

}  // namespace baton::control
