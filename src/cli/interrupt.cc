#include "cli/interrupt.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <array>

namespace baton::cli {
namespace {

// Written by the signal handler; -1 while nobody listens.
std::atomic<int> signal_event = -1;

void note_signal(int number) {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(signal_event, &one, sizeof one));
  ::signal(number, SIG_DFL);  // the second one ends the process
}

void notify(int event) {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(event, &one, sizeof one));
}

}  // namespace

Interrupt::Interrupt() : signalled_(::eventfd(0, EFD_CLOEXEC)), stop_(::eventfd(0, EFD_CLOEXEC)) {
  // A handler rather than a blocked signal: gRPC may have started threads already, and a mask set
  // here would not reach them.
  signal_event = signalled_.get();
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  thread_ = std::thread([this] { watch(); });
}

Interrupt::~Interrupt() {
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  signal_event = -1;
  notify(stop_.get());
  thread_.join();
}

void Interrupt::watch() {
  std::array<pollfd, 2> fds = {pollfd{signalled_.get(), POLLIN, 0}, pollfd{stop_.get(), POLLIN, 0}};
  while (::poll(fds.data(), fds.size(), -1) < 0) {
  }
  if (!(fds[0].revents & POLLIN)) return;
  const std::lock_guard lock(mutex_);
  raised_ = true;
  if (current_) current_->TryCancel();
}

CancelScope::CancelScope(Interrupt* interrupt, grpc::ClientContext& context)
    : interrupt_(interrupt) {
  if (!interrupt_) return;
  const std::lock_guard lock(interrupt_->mutex_);
  interrupt_->current_ = &context;
  if (interrupt_->raised_) context.TryCancel();
}

CancelScope::~CancelScope() {
  if (!interrupt_) return;
  const std::lock_guard lock(interrupt_->mutex_);
  interrupt_->current_ = nullptr;
}

}  // namespace baton::cli
