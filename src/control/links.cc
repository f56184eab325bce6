#include "control/links.h"

#include <utility>

namespace baton::control {

void Links::accept(const NodeId& node, std::string epoch) {
  Link& link = links_[node];
  link.epoch = std::move(epoch);
  rouse(std::exchange(link.stream, nullptr));
}

std::uint64_t Links::add(const NodeId& node, PendingOrder order) {
  std::uint64_t id = next_order_++;
  order.message.set_order_id(id);
  links_[node].orders.emplace(id, std::move(order));
  return id;
}

void Links::allow_sending(const NodeId& node, std::uint64_t order_id) {
  Link& link = links_[node];
  const auto found = link.orders.find(order_id);
  if (found == link.orders.end()) return;
  found->second.sendable = true;
  rouse(link.stream);
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

bool Links::open_stream(const NodeId& node, const std::string& epoch,
                        const std::shared_ptr<OrderStream>& stream) {
  auto found = links_.find(node);
  if (found == links_.end() || found->second.epoch.empty() || found->second.epoch != epoch)
    return false;
  rouse(std::exchange(found->second.stream, stream));
  rouse(stream);
  return true;
}

bool Links::is_current(const NodeId& node, const OrderStream& stream) const {
  auto found = links_.find(node);
  return found != links_.end() && found->second.stream.get() == &stream;
}

void Links::stream_ended(const NodeId& node, const OrderStream& stream) {
  if (is_current(node, stream)) links_.at(node).stream.reset();
}

void Links::cut(const NodeId& node) {
  if (auto found = links_.find(node); found != links_.end()) {
    found->second.epoch.clear();
    rouse(std::exchange(found->second.stream, nullptr));
  }
}

const PendingOrder* Links::next_to_send(const NodeId& node, std::uint64_t sent) const {
  auto link = links_.find(node);
  if (link == links_.end()) return nullptr;
  auto next = link->second.orders.upper_bound(sent);
  return next != link->second.orders.end() && next->second.sendable ? &next->second : nullptr;
}

void Links::take_roused(Roused& into) { into.streams = std::exchange(roused_, {}); }

void Links::rouse(const std::shared_ptr<OrderStream>& stream) {
  if (stream) roused_.push_back(stream);
}

}  // namespace baton::control
