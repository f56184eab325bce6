// People and scripts that use the API while everything else goes on.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace baton::bench {

// One kind of call, made at a steady rate by a thread of its own until it goes.
class PacedCalls {
 public:
  PacedCalls(std::string name, double per_s, std::function<Status()> call);

  const std::string& name() const { return name_; }
  struct Outcome {
    std::vector<double> ms;  // of those that succeeded
    std::size_t failed = 0;
    std::string error;  // of the last that failed
  };
  // Ends it.
  Outcome stop();

 private:
  void run(std::stop_token stop, double per_s, const std::function<Status()>& call);

  const std::string name_;
  Outcome outcome_;
  std::jthread thread_;
};

}  // namespace baton::bench
