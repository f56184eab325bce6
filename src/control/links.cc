#include "control/links.h"

namespace baton::control {

void Links::accept(const NodeId& node, std::string epoch) {
  Link& link = links_[node];
  link.epoch = std::move(epoch);
  link.stream = 0;
}

std::uint64_t Links::add(const NodeId& node, PendingOrder order) {
  std::uint64_t id = next_order_++;
  order.message.set_order_id(id);
  links_[node].orders.emplace(id, std::move(order));
  return id;
}

void Links::allow_sending(const NodeId& node, std::uint64_t order_id) {
  auto& orders = links_[node].orders;
  if (auto found = orders.find(order_id); found != orders.end()) found->second.sendable = true;
}

void Links::drop_orders(const NodeId& node) { links_[node].orders.clear(); }

std::optional<PendingOrder> Links::take(const NodeId& node, std::uint64_t order_id) {
  auto& orders = links_[node].orders;
  auto found = orders.find(order_id);
  if (found == orders.end() || !found->second.sendable) return std::nullopt;
  PendingOrder order = std::move(found->second);
  orders.erase(found);
  return order;
}

std::optional<Links::StreamId> Links::open_stream(const NodeId& node, const std::string& epoch) {
  auto found = links_.find(node);
  if (found == links_.end() || found->second.epoch.empty() || found->second.epoch != epoch)
    return std::nullopt;
  return found->second.stream = next_stream_++;
}

bool Links::is_current(const NodeId& node, StreamId stream) const {
  auto found = links_.find(node);
  return found != links_.end() && found->second.stream == stream;
}

void Links::cut(const NodeId& node) {
  if (auto found = links_.find(node); found != links_.end()) {
    found->second.epoch.clear();
    found->second.stream = 0;
  }
}

const PendingOrder* Links::next_to_send(const NodeId& node, std::uint64_t sent) const {
  auto link = links_.find(node);
  if (link == links_.end()) return nullptr;
  auto next = link->second.orders.upper_bound(sent);
  return next != link->second.orders.end() && next->second.sendable ? &next->second : nullptr;
}

}  // namespace baton::control
