// Orders on their way to agents; see the conventions in core/messages.h, which this keeps.
//
// An order is made when the core decides, may be sent once the decision is saved, and stays until
// its result comes or the core drops it. Not thread-safe: the Loop's lock guards it.
#pragma once

#include <map>
#include <optional>
#include <string>

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

class Links {
 public:
  using StreamId = std::uint64_t;

  // The node's registration was accepted: only streams of this epoch may carry its orders.
  void accept(const NodeId& node, std::string epoch);
  // Returns the order's id, which is put into the message.
  std::uint64_t add(const NodeId& node, PendingOrder order);
  void allow_sending(const NodeId& node, std::uint64_t order_id);
  void drop_orders(const NodeId& node);
  // The order that this result ends; nothing if it was dropped or never sent.
  std::optional<PendingOrder> take(const NodeId& node, std::uint64_t order_id);

  // A stream opens; the one before it is void. Nothing if the epoch is not the accepted one.
  std::optional<StreamId> open_stream(const NodeId& node, const std::string& epoch);
  bool is_current(const NodeId& node, StreamId stream) const;
  // The node's stream is void, and so is its registration.
  void cut(const NodeId& node);
  // The next order after `sent`, if it may be sent.
  const PendingOrder* next_to_send(const NodeId& node, std::uint64_t sent) const;

 private:
  struct Link {
    std::string epoch;
    StreamId stream = 0;
    std::map<std::uint64_t, PendingOrder> orders;
  };
  std::map<NodeId, Link> links_;
  std::uint64_t next_order_ = 1;
  StreamId next_stream_ = 1;
};

}  // namespace baton::control
