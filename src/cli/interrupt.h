// Ctrl-C as an event: cancels the gRPC call under way instead of ending the process.
#pragma once

#include <grpcpp/client_context.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "base/fd.h"

namespace baton::cli {

// Takes SIGINT and SIGTERM for the whole process while it lives. A second signal ends the process
// at once. Must be made before a CancelScope that names it.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool raised() const { return raised_; }

 private:
  friend class CancelScope;
  void watch();

  std::atomic<bool> raised_ = false;
  std::mutex mutex_;
  grpc::ClientContext* current_ = nullptr;  // guarded by mutex_
  Fd signalled_;
  Fd stop_;
  std::thread thread_;
};

// While it lives, an interruption cancels `context`. A null `interrupt` makes it a no-op.
class CancelScope {
 public:
  CancelScope(Interrupt* interrupt, grpc::ClientContext& context);
  ~CancelScope();
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  Interrupt* interrupt_;
};

}  // namespace baton::cli
