// Breaks off calls to the controller from another thread.
#pragma once

#include <grpcpp/client_context.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>

namespace baton::agent {

// Once cancelled, it stays so. Thread-safe.
class CancelToken {
 public:
  void cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : calls_) context->TryCancel();
    changed_.notify_all();
  }
  bool cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }
  // Waits so long, or until it is cancelled; true if it was.
  bool wait_for(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [this] { return cancelled_; });
  }

 private:
  friend class CancellableCall;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<grpc::ClientContext*> calls_;
  bool cancelled_ = false;
};

// While it lives, cancelling the token breaks the call off. The context outlives it.
class CancellableCall {
 public:
  CancellableCall(CancelToken& token, grpc::ClientContext& context)
      : token_(token), context_(context) {
    std::lock_guard lock(token_.mutex_);
    if (token_.cancelled_) context_.TryCancel();
    token_.calls_.insert(&context_);
  }
  ~CancellableCall() {
    std::lock_guard lock(token_.mutex_);
    token_.calls_.erase(&context_);
  }
  CancellableCall(const CancellableCall&) = delete;
  CancellableCall& operator=(const CancellableCall&) = delete;

 private:
  CancelToken& token_;
  grpc::ClientContext& context_;
};

}  // namespace baton::agent
