#include "control/controller.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/convert.h"
#include "core/events.h"
#include "sys/file.h"
#include "wire/channel.h"

namespace baton::control {
namespace {

constexpr std::uint32_t kLeastLeaseMs = 200;
constexpr std::chrono::milliseconds kShutdownGrace{200};

core::Config core_config(const ControllerOptions& options, const v1::Policy& policy) {
  core::Config config;
  config.lease_ms = options.lease_ms;
  config.policy = merge(core::Policy(), policy);
  return config;
}

Result<Fd> lock_data(const std::filesystem::path& data) {
  BATON_CHECK_CTX(sys::make_directories(data, 0700), "data directory");
  BATON_TRY(Fd fd, sys::open_file(data / "lock", O_RDWR | O_CREAT, 0600));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &whole) == 0) return fd;
  if (errno == EAGAIN || errno == EACCES)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("{} is in use by another controller", data.string()));
  return fail_errno(fmt::format("lock {}", data.string()));
}

std::string members_lost_text(const std::string& why) {
  return fmt::format(
      "the records of who is in this cluster are lost ({}). Certificates from before count until "
      "they are too old, those of users for looking alone; roles, tokens and REVOCATIONS are not "
      "known any more: revoke again who was shut out (`baton node revoke`, `baton user revoke`), "
      "and give users new tokens",
      why);
}

// Whoever steals the disk has both then.
void warn_of_key_beside_store(const ControllerOptions& options) {
  std::error_code absent;
  const auto data = std::filesystem::canonical(options.data, absent);
  for (const auto& file : {options.store_key.file, options.old_store_key.file}) {
    if (file.empty()) continue;
    const auto relative = std::filesystem::canonical(file, absent).lexically_relative(data);
    if (!relative.empty() && *relative.begin() != "..")
      spdlog::warn("the key in {} lies beside what it encrypts: keep it on another disk",
                   file.string());
  }
}

}  // namespace

Result<std::unique_ptr<Controller>> Controller::start(const ControllerOptions& options) {
  if (options.lease_ms < kLeastLeaseMs)
    return fail(
        ErrorCode::InvalidArgument,
        fmt::format("a lease of {} ms is below the least, {} ms", options.lease_ms, kLeastLeaseMs));
  std::unique_ptr<Controller> controller(new Controller());
  BATON_CHECK(controller->open_stores(options));
  BATON_CHECK(controller->take_up(options));
  BATON_CHECK(controller->serve(options));
  controller->scrubber_ = std::make_unique<Scrubber>(*controller->loop_);
  return controller;
}

Status Controller::open_stores(const ControllerOptions& options) {
  BATON_TRY(lock_, lock_data(options.data));
  BATON_TRY(auto keys, read_store_keys(options.store_key, options.old_store_key));
  warn_of_key_beside_store(options);
  BATON_TRY(checkpoints_,
            store::CheckpointStore::open(options.data, {.observer = {}, .keys = std::move(keys)}));
  spdlog::info("checkpoints are {}", checkpoints_->encrypted() ? "encrypted" : "not encrypted");
  BATON_TRY(members_, Members::open(options.data));
  if (!members_->lost().empty()) spdlog::error("{}", members_lost_text(members_->lost()));
  access_ = std::make_shared<Access>(*members_);
  BATON_TRY(logs_, OutputLogs::open(options.data / "logs"));
  ballast_ = std::make_unique<Ballast>(options.data);
  return {};
}

Status Controller::take_up(const ControllerOptions& options) {
  BATON_TRY(v1::Policy policy, cluster_policy(options));
  const core::Config config = core_config(options, policy);
  BATON_TRY(Loaded loaded, load_state(options, config, policy));
  events_.load(std::exchange(loaded.events, {}));
  State state(config, std::move(loaded), boot_time_ms());
  for (const auto* record : state.core.jobs()) {
    const JobEntry& entry = state.jobs.at(record->id);
    BATON_TRY(auto log, logs_->get(record->id));
    log->set_writer(record->output_generation);
    for (const auto& checkpoint : record->checkpoints)
      if (!checkpoint.quarantined) log->set_safe(checkpoint.output_bytes);
    log->set_always_safe(nothing_to_go_back_to(*record, entry));
    log->set_ended(core::has_ended(record->state));
  }
  loop_ = std::make_unique<Loop>(std::move(state),
                                 Loop::Stores{*db_, *checkpoints_, *logs_, events_, *ballast_});
  context_ = std::make_unique<ServiceContext>(ServiceContext{*loop_, calls_, *members_, *access_,
                                                             policy, options.lease_ms,
                                                             wall_time_ms(), options.most_jobs});
  bulk_ = std::make_unique<Bulk>(*context_);
  if (!members_->lost().empty()) tell_members_lost();
  return remove_orphans();
}

void Controller::tell_members_lost() {
  v1::Event event;
  event.set_at_wall_ms(wall_time_ms());
  event.set_kind(core::event::kRecordsLost);
  event.set_text(members_lost_text(members_->lost()));
  loop_->with_lock([&](Loop::Locked& l) {
    Loop::Extra extra;
    extra.changes.events.push_back(std::move(event));
    l.apply(core::Tick(), std::move(extra));
  });
}

// What was published or logged, but never recorded or no longer is.
Status Controller::remove_orphans() {
  BATON_TRY(auto stored, checkpoints_->list());
  for (const auto& [job, number] : stored) {
    bool known = loop_->with_lock([&, job = job, number = number](Loop::Locked& l) {
      auto entry = l.state.jobs.find(job);
      return entry != l.state.jobs.end() && entry->second.checkpoints.contains(number);
    });
    if (!known) BATON_CHECK(checkpoints_->remove(job, number));
  }
  const auto is_known = [&](JobId job) {
    return loop_->with_lock([&](Loop::Locked& l) { return l.state.jobs.contains(job); });
  };
  BATON_TRY(auto keyed, checkpoints_->jobs_with_keys());
  for (JobId job : keyed)
    if (!is_known(job)) BATON_CHECK(checkpoints_->remove_leftovers(job));
  BATON_TRY(auto logged, logs_->list());
  for (JobId job : logged) {
    if (is_known(job)) continue;
    BATON_CHECK(logs_->remove(job));
    BATON_CHECK(checkpoints_->remove_leftovers(job));
  }
  return {};
}

Result<std::unique_ptr<grpc::Server>> Controller::start_server(
    const std::string& address, bool insecure, int& port,
    const std::function<void(grpc::ServerBuilder&)>& with) {
  BATON_TRY(std::string target, wire::parse_address(address));
  const bool socket = target.starts_with("unix:");
  if (insecure && !wire::is_local_address(target))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("--insecure is for loopback only, and {} is not", address));
  grpc::ServerBuilder builder;
  wire::configure(builder);
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  if (!socket && !insecure) {
    credentials = wire::server_credentials(members_->identity());
    credentials->SetAuthMetadataProcessor(access_);
  }
  builder.AddListeningPort(target, credentials, &port);
  with(builder);
  auto server = builder.BuildAndStart();
  if (server && port != 0) return server;
  return fail(
      ErrorCode::Unavailable,
      fmt::format("can't listen on {}: it is in use, or not an address of this machine", address));
}

Status Controller::listen(const std::string& address, bool cluster, bool api, bool insecure) {
  Endpoint endpoint;
  int port = 0;
  BATON_TRY(endpoint.server, start_server(address, insecure, port, [&](auto& builder) {
              endpoint.membership = std::make_unique<MembershipService>(*context_);
              builder.RegisterService(endpoint.membership.get());
              if (cluster) {
                endpoint.cluster = std::make_unique<ClusterService>(*context_, *bulk_);
                builder.RegisterService(endpoint.cluster.get());
              }
              if (api) {
                endpoint.api = std::make_unique<ApiService>(*context_);
                builder.RegisterService(endpoint.api.get());
                endpoint.store = std::make_unique<StoreService>(*context_, *bulk_);
                builder.RegisterService(endpoint.store.get());
              }
            }));
  const bool socket = address == socket_;
  if (!socket) ports_.push_back(port);
  if (!socket && insecure)
    spdlog::warn("{} is neither encrypted nor authenticated: whoever is on this machine can {}",
                 address, api ? "run anything as root" : "read and replace every checkpoint");
  spdlog::info("listening on {} for {}", address,
               api && cluster ? "users and agents"
               : api          ? "users"
                              : "agents");
  endpoints_.push_back(std::move(endpoint));
  return {};
}

Status Controller::each_address(const ControllerOptions& options, const UseAddress& use) {
  socket_ = options.socket.empty() ? (options.data / "baton.sock").string() : options.socket;
  {
    // gRPC makes the socket; nobody else may connect, not even for a moment.
    const mode_t before = ::umask(0177);
    const Status used = use(socket_, true, true);
    ::umask(before);
    BATON_CHECK(used);
  }
  auto agents = options.listen;
  if (agents.empty()) agents.push_back(wire::kDefaultClusterAddress);
  for (const auto& address : agents) BATON_CHECK(use(address, true, false));
  for (const auto& address : options.listen_api) BATON_CHECK(use(address, false, true));
  return {};
}

Status Controller::serve(const ControllerOptions& options) {
  return each_address(options, [&](const std::string& address, bool cluster, bool api) {
    return listen(address, cluster, api, options.insecure);
  });
}

Controller::~Controller() {
  scrubber_.reset();
  calls_.request_stop();
  auto deadline = std::chrono::system_clock::now() + kShutdownGrace;
  for (auto& endpoint : endpoints_) endpoint.server->Shutdown(deadline);
  calls_.wait_idle();
  endpoints_.clear();
}

}  // namespace baton::control
