// Controller: the records it begins with, and what it does when they are lost.
#include <time.h>

#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "base/log.h"
#include "control/census.h"
#include "control/controller.h"

namespace baton::control {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kCensusShutdownGrace{200};

bool is_blank(const Loaded& loaded) {
  return loaded.jobs.empty() && loaded.nodes.empty() && loaded.events.empty() &&
         loaded.next_job_id == 1;
}

bool has_nodes(const Members& members) {
  return std::ranges::any_of(members.list(), [](const v1::Identity& member) {
    return member.kind() == v1::IDENTITY_NODE;
  });
}

void wait_until_boot_ms(std::int64_t ms) {
  const timespec until{ms / 1'000, (ms % 1'000) * 1'000'000};
  while (::clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

}  // namespace

Result<Loaded> Controller::load_state(const ControllerOptions& options, const core::Config& config,
                                      const v1::Policy& policy) {
  const fs::path path = options.data / "state.db";
  const auto open = [&]() -> Result<Loaded> {
    BATON_TRY(db_, StateDb::open(path));
    return db_->load();
  };
  auto loaded = open();
  if (loaded && !is_blank(*loaded)) return loaded;
  if (!loaded && loaded.error().code() != ErrorCode::Damaged) return loaded;
  BATON_TRY(const Remnants remnants, find_remnants(*checkpoints_, *logs_));
  // A job that has just been started leaves nothing here, but its node has joined.
  if (loaded && remnants.empty() && !has_nodes(*members_)) return loaded;  // the first start

  std::string why = "state.db was missing or empty";
  if (!loaded) {
    db_.reset();
    BATON_TRY(const std::string aside, Database::move_aside(path));
    why = fmt::format("{}; the file is {} now", loaded.error().message(), aside);
    BATON_TRY(db_, StateDb::open(path));
  }
  spdlog::error("the records of this cluster are lost: {}. Asking the nodes what runs", why);
  BATON_TRY(const CensusResult census, take_census(options, config, policy));
  const Changes changes = rebuild(remnants, census, config.policy, why, wall_time_ms());
  for (const auto& event : changes.events) spdlog::warn("{}", event.text());
  BATON_CHECK_CTX(db_->save(changes), "save the records that were put together again");
  return db_->load();
}

Result<CensusResult> Controller::take_census(const ControllerOptions& options,
                                             const core::Config& config, const v1::Policy& policy) {
  Census census(*access_, config.lease_ms, policy);
  std::vector<std::unique_ptr<CensusService>> services;
  std::vector<std::unique_ptr<grpc::Server>> servers;
  BATON_CHECK(each_address(options, [&](const std::string& address, bool, bool) -> Status {
    auto& service = services.emplace_back(std::make_unique<CensusService>(census));
    int port = 0;
    BATON_TRY(auto server, start_server(address, options.insecure, port, [&](auto& builder) {
                builder.RegisterCallbackGenericService(service.get());
              }));
    servers.push_back(std::move(server));
    return {};
  }));
  wait_until_boot_ms(boot_time_ms() + core::Cluster::lease_term(config));
  for (auto& server : servers)
    server->Shutdown(std::chrono::system_clock::now() + kCensusShutdownGrace);
  servers.clear();
  return census.take();
}

}  // namespace baton::control
