// The names of a processor's features. Cannot change, so copies share them: there are a hundred
// names, alike on most nodes and in most checkpoints.
#pragma once

#include <initializer_list>
#include <memory>
#include <set>
#include <string>

namespace baton::core {

class CpuFeatures {
 public:
  using Names = std::set<std::string>;

  CpuFeatures() = default;
  CpuFeatures(std::initializer_list<std::string> names) : CpuFeatures(Names(names)) {}
  explicit CpuFeatures(Names names) : names_(std::make_shared<const Names>(std::move(names))) {}

  const Names& names() const {
    static const Names none;
    return names_ ? *names_ : none;
  }
  bool operator==(const CpuFeatures& other) const {
    return names_ == other.names_ || names() == other.names();
  }

 private:
  std::shared_ptr<const Names> names_;
};

}  // namespace baton::core
