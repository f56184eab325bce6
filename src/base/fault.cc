#include "base/fault.h"

#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include <thread>

namespace baton {
namespace {

std::string armed_faults() {
  if (const char* path = std::getenv("BATON_FAULTS_FILE")) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  const char* list = std::getenv("BATON_FAULTS");
  return list ? list : "";
}

// Nothing tells of a change of the file's content everywhere it may be seen.
constexpr std::chrono::milliseconds kLookAgain{5};

std::string action_for(std::string_view point) {
  std::string list = armed_faults();
  std::string_view rest = list;
  while (!rest.empty()) {
    auto end = rest.find_first_of(",\n");
    std::string_view item = rest.substr(0, end);
    rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
    auto equals = item.find('=');
    if (equals != std::string_view::npos && item.substr(0, equals) == point)
      return std::string(item.substr(equals + 1));
  }
  return {};
}

void hold(std::string_view point) {
  const char* path = std::getenv("BATON_FAULTS_FILE");
  if (!path) return;
  std::ofstream(fmt::format("{}.{}", path, point)).flush();
  while (action_for(point) == "hold") std::this_thread::sleep_for(kLookAgain);
}

}  // namespace

Status fault(std::string_view point) {
  static const bool enabled = std::getenv("BATON_FAULTS") || std::getenv("BATON_FAULTS_FILE");
  if (!enabled) return {};
  std::string action = action_for(point);
  if (action.empty()) return {};
  if (action == "crash") raise(SIGKILL);
  if (action == "hold") hold(point);
  if (action.starts_with("delay:"))
    std::this_thread::sleep_for(std::chrono::milliseconds(std::atol(action.c_str() + 6)));
  if (action == "errors") return fail(ErrorCode::Internal, fmt::format("injected fault {}", point));
  if (action == "error") {
    static std::mutex mutex;
    static std::set<std::string, std::less<>> fired;
    std::lock_guard lock(mutex);
    if (fired.emplace(point).second)
      return fail(ErrorCode::Internal, fmt::format("injected fault {}", point));
  }
  return {};
}

}  // namespace baton
