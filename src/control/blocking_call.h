// Long calls (followers, waiters) written as plain blocking code: each runs on a thread of its own
// with a stop token that fires when the client goes away or the controller shuts down, so nobody
// polls for either.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>

namespace baton::control {

// Counts the calls that are under way, and ends them all.
class CallGroup {
 public:
  // False: the group is stopping; do not start.
  bool enter() {
    std::lock_guard lock(mutex_);
    if (stop_.stop_requested()) return false;
    ++running_;
    return true;
  }
  void leave() {
    std::lock_guard lock(mutex_);
    --running_;
    idle_.notify_all();
  }
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
};

// A server stream. `body` writes parts through write(), which blocks until the part is on its way
// and is false once the client is gone, and returns the final status.
template <typename Part>
class BlockingStream final : public grpc::ServerWriteReactor<Part> {
 public:
  using Body = std::function<grpc::Status(BlockingStream&)>;

  static grpc::ServerWriteReactor<Part>* start(CallGroup& group, Body body) {
    return new BlockingStream(group, std::move(body));
  }

  bool write(Part part) {
    std::unique_lock lock(mutex_);
    part_ = std::move(part);
    writing_ = true;
    lock.unlock();
    this->StartWrite(&part_);
    lock.lock();
    changed_.wait(lock, [&] { return !writing_; });
    return write_ok_ && !stop_.stop_requested();
  }
  std::stop_token stop_token() const { return stop_.get_token(); }

 private:
  BlockingStream(CallGroup& group, Body body)
      : group_(group), on_group_stop_(group.stop_token(), [this] { stop_.request_stop(); }) {
    if (!group_.enter()) {
      entered_ = false;
      this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the controller is stopping"));
      return;
    }
    thread_ = std::thread([this, body = std::move(body)] { this->Finish(body(*this)); });
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    write_ok_ = ok;
    changed_.notify_all();
  }
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override {
    // Finish() may still be returning on the call's thread, and OnDone() may even be running there.
    std::thread([this] {
      if (thread_.joinable()) thread_.join();
      CallGroup& group = group_;
      bool entered = entered_;
      delete this;
      if (entered) group.leave();
    }).detach();
  }

  CallGroup& group_;
  bool entered_ = true;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_group_stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Part part_;
  bool writing_ = false;
  bool write_ok_ = true;
  std::thread thread_;
};

// A client stream with a single answer. `body` takes parts through read(), which blocks until one
// is there and is false after the last, or once the client is gone.
template <typename Part>
class BlockingUpload final : public grpc::ServerReadReactor<Part> {
 public:
  using Body = std::function<grpc::Status(BlockingUpload&)>;

  static grpc::ServerReadReactor<Part>* start(CallGroup& group, Body body) {
    return new BlockingUpload(group, std::move(body));
  }

  bool read(Part& part) {
    std::unique_lock lock(mutex_);
    reading_ = true;
    lock.unlock();
    this->StartRead(&part);
    lock.lock();
    changed_.wait(lock, [&] { return !reading_; });
    return read_ok_ && !stop_.stop_requested();
  }
  std::stop_token stop_token() const { return stop_.get_token(); }

 private:
  BlockingUpload(CallGroup& group, Body body)
      : group_(group), on_group_stop_(group.stop_token(), [this] { stop_.request_stop(); }) {
    if (!group_.enter()) {
      entered_ = false;
      this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the controller is stopping"));
      return;
    }
    thread_ = std::thread([this, body = std::move(body)] { this->Finish(body(*this)); });
  }
  void OnReadDone(bool ok) override {
    std::lock_guard lock(mutex_);
    reading_ = false;
    read_ok_ = ok;
    changed_.notify_all();
  }
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override {
    std::thread([this] {
      if (thread_.joinable()) thread_.join();
      CallGroup& group = group_;
      bool entered = entered_;
      delete this;
      if (entered) group.leave();
    }).detach();
  }

  CallGroup& group_;
  bool entered_ = true;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_group_stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reading_ = false;
  bool read_ok_ = true;
  std::thread thread_;
};

// The same for a call with a single answer.
class BlockingUnary final : public grpc::ServerUnaryReactor {
 public:
  using Body = std::function<grpc::Status(std::stop_token)>;

  static grpc::ServerUnaryReactor* start(CallGroup& group, Body body) {
    return new BlockingUnary(group, std::move(body));
  }

 private:
  BlockingUnary(CallGroup& group, Body body)
      : group_(group), on_group_stop_(group.stop_token(), [this] { stop_.request_stop(); }) {
    if (!group_.enter()) {
      entered_ = false;
      this->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the controller is stopping"));
      return;
    }
    thread_ =
        std::thread([this, body = std::move(body)] { this->Finish(body(stop_.get_token())); });
  }
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override {
    std::thread([this] {
      if (thread_.joinable()) thread_.join();
      CallGroup& group = group_;
      bool entered = entered_;
      delete this;
      if (entered) group.leave();
    }).detach();
  }

  CallGroup& group_;
  bool entered_ = true;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_group_stop_;
  std::thread thread_;
};

}  // namespace baton::control
