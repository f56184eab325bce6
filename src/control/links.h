// Orders on their way to agents; see the conventions in core/messages.h, which this keeps.
//
// An order is made when the core decides, may be sent once the decision is saved, and stays until
// its result comes or the core drops it. Not thread-safe: the Loop's lock guards it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/messages.h"
#include "wire/baton.pb.h"

namespace baton::control {

struct PendingOrder {
  v1::Order message;
  core::OrderKind kind = core::OrderKind::Start;
  JobId job;
  Generation generation;
  bool sendable = false;
};

// What Links knows of the stream that carries a node's orders.
class OrderStream {
 public:
  virtual ~OrderStream() = default;
  // An order may be sent, or the stream is void. Called without the Loop's lock.
  virtual void rouse() = 0;
};

class Links {
 public:
  // Streams that have something to do; they are told when this goes.
  class Roused {
   public:
    Roused() = default;
    ~Roused() {
      for (const auto& stream : streams) stream->rouse();
    }
    Roused(const Roused&) = delete;
    Roused& operator=(const Roused&) = delete;
    std::vector<std::shared_ptr<OrderStream>> streams;
  };

  // The node's registration was accepted: only streams of this epoch may carry its orders.
  void accept(const NodeId& node, std::string epoch);
  // Returns the order's id, which is put into the message.
  std::uint64_t add(const NodeId& node, PendingOrder order);
  void allow_sending(const NodeId& node, std::uint64_t order_id);
  void drop_orders(const NodeId& node);
  // The order that this result ends; nothing if it was dropped or never sent.
  std::optional<PendingOrder> take(const NodeId& node, std::uint64_t order_id);

  // A stream opens; the one before it is void. False if the epoch is not the accepted one.
  bool open_stream(const NodeId& node, const std::string& epoch,
                   const std::shared_ptr<OrderStream>& stream);
  bool is_current(const NodeId& node, const OrderStream& stream) const;
  void stream_ended(const NodeId& node, const OrderStream& stream);
  // The node's stream is void, and so is its registration.
  void cut(const NodeId& node);
  // The next order after `sent`, if it may be sent.
  const PendingOrder* next_to_send(const NodeId& node, std::uint64_t sent) const;
  // Each of these streams has been told nothing yet. For Loop, before it lets go of its lock.
  void take_roused(Roused& into);

 private:
  struct Link {
    std::string epoch;
    std::shared_ptr<OrderStream> stream;
    std::map<std::uint64_t, PendingOrder> orders;
  };
  void rouse(const std::shared_ptr<OrderStream>& stream);

  std::map<NodeId, Link> links_;
  std::vector<std::shared_ptr<OrderStream>> roused_;
  std::uint64_t next_order_ = 1;
};

}  // namespace baton::control
