#include "store/shipping.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "agent/cancel.h"
#include "agent/controller_link.h"
#include "agent/engine/page_packs.h"
#include "agent/engine/page_store.h"
#include "base/clock.h"
#include "cluster/fleet.h"
#include "store/page_hash.h"
#include "sys/file.h"
#include "wire/status.h"

namespace baton::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t step_bytes = 1u << 20;
constexpr std::uint64_t first_address = 0x7f0000000000;
constexpr std::int64_t patience_ms = 60'000;
constexpr std::chrono::milliseconds poll{20};
constexpr std::chrono::seconds call_timeout{30};

std::string node_name(int agent) { return fmt::format("node-{}", agent + 1); }

Status write_file(const fs::path& path, std::string_view content) {
  BATON_CHECK(sys::make_directories(path.parent_path(), 0700));
  BATON_TRY(Fd file, sys::open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  return sys::write_all(file.get(), content);
}

// Makes every page that is not of zeroes one that no other checkpoint has.
void stamp(std::string& pages, std::uint64_t owner, std::uint64_t address) {
  for (std::size_t at = 0; at < pages.size(); at += store::kPageBytes) {
    char* page = pages.data() + at;
    if (store::hash_page(page) == store::zero_page_hash()) continue;
    const std::uint64_t mark[] = {owner, address + at};
    std::memcpy(page, mark, sizeof mark);
  }
}

Status make_checkpoint(const fs::path& directory, const std::vector<DataSet>& sets,
                       std::uint64_t owner, std::uint64_t bytes) {
  BATON_CHECK(sys::make_directories(directory, 0700));
  BATON_TRY(auto packs, agent::PagePacks::create(directory / "packs"));
  agent::PageStore memory(*packs);
  std::uint64_t address = first_address;
  while (packs->added().bytes < bytes)
    for (const auto& set : sets)
      for (std::size_t at = 0; at < set.pages.size() && packs->added().bytes < bytes;
           at += step_bytes) {
        std::string pages = set.pages.substr(at, step_bytes);
        stamp(pages, owner, address);
        BATON_CHECK(memory.put(address, pages));
        address += pages.size();
      }
  BATON_CHECK(packs->seal());
  BATON_CHECK(write_file(directory / "memory" / "17.map", store::encode_page_map(memory.map())));
  BATON_CHECK(write_file(directory / "images" / "core-17.img", std::string(4096, 'c')));
  return write_file(directory / "checkpoint.json", "{}");
}

// Looks at a process until it goes.
class MemoryWatch {
 public:
  explicit MemoryWatch(const ControllerProcess& process)
      : thread_([this, &process](std::stop_token stop) {
          while (!stop.stop_requested()) {
            anonymous_mib_ = std::max(anonymous_mib_, process.anonymous_mib());
            threads_ = std::max(threads_, process.threads());
            std::this_thread::sleep_for(poll);
          }
        }) {}
  void stop() { thread_ = {}; }
  double anonymous_mib() const { return anonymous_mib_; }
  int threads() const { return threads_; }

 private:
  double anonymous_mib_ = 0;
  int threads_ = 0;
  std::jthread thread_;
};

class Shippers {
 public:
  Shippers(fs::path directory, int agents) : directory_(std::move(directory)), agents_(agents) {}

  Status start() {
    const fs::path baton = fs::read_symlink("/proc/self/exe").parent_path() / "baton";
    BATON_TRY(controller_, ControllerProcess::start(baton, directory_));
    BATON_TRY(const auto user, join(*controller_, v1::IDENTITY_USER, "bench",
                                    controller_->users_address(), directory_ / "user"));
    api_ = v1::Api::NewStub(user.open());
    BATON_TRY(fleet_, Fleet::join(*controller_, agents_, directory_ / "agents"));
    fleet_->start();
    const auto all = static_cast<std::uint64_t>(agents_);
    BATON_CHECK(await("registrations", [&] { return fleet_->figures().registered >= all; }));
    for (int i = 0; i < agents_; ++i) BATON_CHECK(submit(i));
    for (auto& job : jobs_) BATON_CHECK(await_running(job));
    return {};
  }

  fs::path checkpoint(int agent) const { return directory_ / "made" / node_name(agent); }

  Result<ShippingFigures> ship(std::uint64_t bytes_each) {
    ShippingFigures figures;
    figures.before_mib = controller_->resident_mib();
    MemoryWatch watch(*controller_);
    std::vector<Status> outcomes(jobs_.size());
    const auto began_ns = boot_time_ns();
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < agents_; ++i)
        threads.emplace_back(
            [this, i, &outcome = outcomes[static_cast<std::size_t>(i)]] { outcome = ship_one(i); });
    }
    figures.seconds = static_cast<double>(boot_time_ns() - began_ns) / 1e9;
    for (Status& outcome : outcomes) BATON_CHECK(outcome);
    watch.stop();
    figures.peak_mib = controller_->resident_peak_mib();
    figures.peak_anonymous_mib = watch.anonymous_mib();
    figures.threads = watch.threads();
    for (const auto& job : jobs_) {
      BATON_TRY(const auto list, call(&v1::Api::Stub::ListCheckpoints, ref(job)));
      if (list.checkpoints_size() != 1 || list.checkpoints(0).new_bytes() < bytes_each)
        return fail(ErrorCode::Internal,
                    fmt::format("{}: not all of it has come", job.spec().name()));
      figures.bytes += list.checkpoints(0).new_bytes();
    }
    return figures;
  }

 private:
  static v1::JobRef ref(const v1::Job& job) {
    v1::JobRef ref;
    ref.set_name_or_id(std::to_string(job.id()));
    return ref;
  }

  template <typename Request, typename Reply>
  Result<Reply> call(grpc::Status (v1::Api::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Reply*),
                     const std::type_identity_t<Request>& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + call_timeout);
    context.set_wait_for_ready(true);
    Reply reply;
    BATON_CHECK(wire::check(((*api_).*method)(&context, request, &reply)));
    return reply;
  }

  Status await(const std::string& what, const std::function<bool()>& reached) {
    for (const auto end = boot_time_ms() + patience_ms; boot_time_ms() < end;
         std::this_thread::sleep_for(poll))
      if (reached()) return {};
    return fail(ErrorCode::TimedOut, what + " did not come");
  }

  Status submit(int agent) {
    v1::RunRequest request;
    v1::JobSpec& spec = *request.mutable_spec();
    spec.set_name("work-" + node_name(agent));
    spec.add_argv("/usr/bin/simulate");
    spec.set_node(node_name(agent));
    spec.mutable_policy()->set_standby(false);  // a simulated agent fetches nothing
    BATON_TRY(auto job, call(&v1::Api::Stub::Run, request));
    jobs_.push_back(std::move(job));
    return {};
  }

  Status await_running(v1::Job& job) {
    Status status;
    BATON_CHECK(await(job.spec().name(), [&] {
      auto now = call(&v1::Api::Stub::GetJob, ref(job));
      if (!now) {
        status = fail(std::move(now).error());
        return true;
      }
      job = std::move(*now);
      return job.state() == v1::JOB_RUNNING;
    }));
    return status;
  }

  Status ship_one(int agent) {
    const v1::Job& job = jobs_[static_cast<std::size_t>(agent)];
    BATON_TRY(const auto dialer,
              wire::Dialer::create(controller_->agents_address(),
                                   {.identity = directory_ / "agents" / node_name(agent)}));
    const auto link = agent::connect_controller(dialer, 0);
    v1::UploadHeader header;
    header.set_job_id(job.id());
    header.set_generation(job.generation());
    header.mutable_info()->set_criu_version("4.2.1");
    const std::atomic<bool> never = false;
    agent::CancelToken cancel;
    BATON_CHECK_CTX(link->upload(header, checkpoint(agent), never, {}, cancel), job.spec().name());
    return {};
  }

  const fs::path directory_;
  const int agents_;
  std::unique_ptr<ControllerProcess> controller_;
  std::unique_ptr<v1::Api::Stub> api_;
  std::unique_ptr<Fleet> fleet_;
  std::vector<v1::Job> jobs_;
};

}  // namespace

Result<ShippingFigures> ship_at_once(const fs::path& directory, const std::vector<DataSet>& sets,
                                     int agents, std::uint64_t bytes) {
  Shippers shippers(directory, agents);
  for (int i = 0; i < agents; ++i)
    BATON_CHECK(
        make_checkpoint(shippers.checkpoint(i), sets, static_cast<std::uint64_t>(i) + 1, bytes));
  BATON_CHECK(shippers.start());
  return shippers.ship(bytes);
}

}  // namespace baton::bench
