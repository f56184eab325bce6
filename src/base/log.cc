#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace baton {

void log_init(const std::string& who, const std::string& level) {
  auto logger = spdlog::stderr_logger_mt(who.empty() ? "baton" : who);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l [%n] %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace baton
