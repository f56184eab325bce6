#include "control/order_stream.h"

#include "base/log.h"
#include "control/agent_words.h"
#include "wire/status.h"

namespace baton::control {
namespace {

// Owns itself until the call is done. Reading goes on by itself; writing, and ending the call, is
// the right of one at a time: whoever sets `busy_`.
class Stream final : public grpc::ServerBidiReactor<v1::AgentMessage, v1::Order>,
                     public OrderStream {
 public:
  Stream(ServiceContext& context, grpc::CallbackServerContext& call)
      : context_(context),
        call_(call),
        on_stop_(context.calls.stop_token(), [this] { call_.TryCancel(); }) {}

  static Stream* start(ServiceContext& context, grpc::CallbackServerContext& call) {
    auto stream = std::make_shared<Stream>(context, call);
    stream->self_ = stream;
    stream->entered_ = context.calls.enter();
    if (stream->entered_)
      stream->StartRead(&stream->message_);
    else
      stream->end(Error(ErrorCode::Unavailable, "the controller is stopping"));
    return stream.get();
  }

  void rouse() override {
    {
      std::lock_guard lock(mutex_);
      again_ = true;
      if (busy_) return;
      busy_ = true;
    }
    proceed();
  }

 private:
  // For who has the right to write: does what there is to do, and gives the right back or leaves it
  // to the end of a write.
  void proceed() {
    for (;;) {
      bool over = false;
      {
        std::lock_guard lock(mutex_);
        over = over_;
        if (!again_ && !over) busy_ = false;
        if (!busy_) return;
        again_ = false;
      }
      if (over) return Finish(status_);  // and keeps the right: nothing may follow
      bool is_void = false;
      bool found = context_.loop.with_lock([&](Loop::Locked& l) {
        is_void = !l.state.links.is_current(node_, *this);
        const PendingOrder* next = is_void ? nullptr : l.state.links.next_to_send(node_, sent_);
        if (next) order_ = next->message;
        return next != nullptr;
      });
      if (is_void) call_.TryCancel();  // reading ends, and with it the call
      if (!found || broken_) continue;
      sent_ = order_.order_id();
      return StartWrite(&order_);
    }
  }
  void OnWriteDone(bool ok) override {
    broken_ = broken_ || !ok;
    {
      std::lock_guard lock(mutex_);
      again_ = true;  // there may be another
    }
    proceed();
  }

  void OnReadDone(bool ok) override {
    Status good = ok ? take(message_) : Status();
    if (ok && good) return StartRead(&message_);
    if (!good) return end(good.error());
    end({});
  }
  void end(std::optional<Error> error) {
    if (error) status_ = wire::to_grpc(*error);
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    rouse();
  }

  Status take(const v1::AgentMessage& message) {
    if (node_.value.empty()) return open(message);
    if (message.has_result()) take_result(message.result());
    return {};
  }
  Status open(const v1::AgentMessage& message) {
    if (!message.has_hello())
      return fail(ErrorCode::InvalidArgument, "attach: the first message is no hello");
    const NodeId node(message.hello().node());
    BATON_CHECK(context_.access.check_node(call_, node));
    node_ = node;
    const bool opened = context_.loop.with_lock([&](Loop::Locked& l) {
      return l.state.links.open_stream(node, message.hello().agent_epoch(), self_);
    });
    if (!opened) return fail(ErrorCode::FailedPrecondition, "attach: register first");
    // After the stream is open: whoever shuts the node out meanwhile closes it, or is seen here.
    return context_.access.check_node(call_, node);
  }
  void take_result(const v1::OrderResult& result);

  void OnDone() override {
    context_.loop.with_lock([&](Loop::Locked& l) { l.state.links.stream_ended(node_, *this); });
    CallGroup& calls = context_.calls;
    const bool entered = entered_;
    self_.reset();  // others may hold it for a moment; they find nothing to do
    if (entered) calls.leave();
  }

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  std::shared_ptr<Stream> self_;
  bool entered_ = false;
  // The reader's, until it is over; node_ does not change once the stream is open.
  v1::AgentMessage message_;
  NodeId node_;
  grpc::Status status_;
  // Who is busy's.
  v1::Order order_;
  std::uint64_t sent_ = 0;
  bool broken_ = false;  // what was written went nowhere

  std::mutex mutex_;
  bool busy_ = false;
  bool again_ = false;  // look once more before giving up the right
  bool over_ = false;   // nothing more is read
  std::stop_callback<std::function<void()>> on_stop_;
};

void Stream::take_result(const v1::OrderResult& result) {
  context_.loop.with_lock([&](Loop::Locked& l) {
    auto order = l.state.links.take(node_, result.order_id());
    if (!order) {
      spdlog::debug("{}: result of order {}, which is void", node_, result.order_id());
      return;
    }
    core::OrderDone done = control::take_result(result);
    done.kind = order->kind;
    done.job = order->job;
    done.generation = order->generation;
    done.node = node_;
    l.apply(done);
  });
}

}  // namespace

grpc::ServerBidiReactor<v1::AgentMessage, v1::Order>* serve_orders(
    ServiceContext& context, grpc::CallbackServerContext& call) {
  return Stream::start(context, call);
}

}  // namespace baton::control
