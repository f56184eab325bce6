// Strong identifiers: a JobId is not a Generation, and neither is a number by accident.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace baton {

template <typename Tag, typename Value>
struct Named {
  Value value{};

  Named() = default;
  explicit Named(Value v) : value(std::move(v)) {}
  friend auto operator<=>(const Named&, const Named&) = default;
};

using JobId = Named<struct JobIdTag, std::uint64_t>;
// Numbers the incarnations of one job; only grows.
using Generation = Named<struct GenerationTag, std::uint64_t>;
// Numbers the checkpoints of one job, from 1; never reused.
using CheckpointNumber = Named<struct CheckpointNumberTag, std::uint64_t>;
// A node's name, unique in its cluster.
using NodeId = Named<struct NodeIdTag, std::string>;

}  // namespace baton

template <typename Tag, typename Value>
struct std::hash<baton::Named<Tag, Value>> {
  std::size_t operator()(const baton::Named<Tag, Value>& id) const {
    return std::hash<Value>{}(id.value);
  }
};

template <typename Tag, typename Value>
struct fmt::formatter<baton::Named<Tag, Value>> : fmt::formatter<Value> {
  template <typename Context>
  auto format(const baton::Named<Tag, Value>& id, Context& context) const {
    return fmt::formatter<Value>::format(id.value, context);
  }
};
