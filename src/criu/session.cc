#include "criu/session.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <csignal>
#include <vector>

#include "base/clock.h"
#include "criu/criu_rpc.pb.h"

namespace baton::criu {
namespace {

// Deleted files that are still open are copied into the images up to this size. Files of the
// private filesystem only; 1 GiB bounds the freeze and the checkpoint, and covers what databases
// and build tools keep that way.
constexpr std::uint32_t ghost_limit_bytes = 1u << 30;
// CRIU's timeout for stopping the tasks. Uninterruptible sleep (NFS, a dying disk) is what
// exceeds it.
constexpr std::uint32_t seize_timeout_s = 10;
constexpr int exit_limit_ms = 2'000;
constexpr int log_level_warn = 2;  // each line costs the frozen job two microseconds

void fill_common(criu_rpc::Opts& opts, const SessionOptions& options) {
  opts.set_images_dir_fd(-1);
  opts.set_images_dir(options.images_dir);
  opts.set_log_file(options.log_file);
  opts.set_log_level(log_level_warn);
  opts.set_notify_scripts(true);
  opts.set_ext_unix_sk(true);
  opts.set_tcp_established(true);
  // A connection still being made is made again by its client.
  opts.set_tcp_skip_in_flight(true);
  opts.set_file_locks(true);
  opts.set_link_remap(true);
  opts.set_orphan_pts_master(true);
  opts.set_manage_cgroups(true);
  opts.set_manage_cgroups_mode(criu_rpc::CG_IGNORE);
  opts.set_ghost_limit(ghost_limit_bytes);
  opts.set_network_lock(options.network_lock == NetworkLock::Nftables ? criu_rpc::NFTABLES
                                                                      : criu_rpc::SKIP);
}

// A restored terminal's master may be handed to us; nobody outside the sandbox wants it.
void close_passed_descriptors(msghdr& message) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    auto count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int raw = -1;
      std::memcpy(&raw, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      ::close(raw);
    }
  }
}

std::string worker_words(const criu_rpc::Response& response) {
  std::string words = response.cr_errmsg();
  while (!words.empty() && words.back() == '\n') words.pop_back();
  // "Error (criu/x.c:12): text" says too much to a person.
  if (auto end = words.find("): "); words.starts_with("Error (") && end != std::string::npos)
    words.erase(0, end + 3);
  return words;
}

}  // namespace

std::string Version::to_string() const {
  return sublevel ? fmt::format("{}.{}.{}", major_number, minor_number, sublevel)
                  : fmt::format("{}.{}", major_number, minor_number);
}

Session::~Session() {
  // A worker that dies of a signal counts as one that left its tasks in the middle of something.
  if (answered_ && pidfd_.valid()) {
    socket_.reset();
    pollfd waiting{pidfd_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, exit_limit_ms) > 0) return;
    signal_worker(SIGTERM);  // by which pid 1 knows that it was done
  }
  kill_worker();
}

void Session::signal_worker(int number) {
  ::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0);
}

void Session::kill_worker() {
  if (!pidfd_.valid()) return;
  signal_worker(SIGKILL);
  // Readable once the process is dead, whoever reaps it.
  pollfd waiting{pidfd_.get(), POLLIN, 0};
  while (::poll(&waiting, 1, -1) < 0 && errno == EINTR) {
  }
}

Status Session::send(const criu_rpc::Request& request) {
  std::string bytes = request.SerializeAsString();
  ssize_t sent;
  do {
    sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    worker_died_ = true;
    return fail_errno("criu worker is gone");
  }
  return {};
}

Result<criu_rpc::Response> Session::receive(std::chrono::milliseconds limit) {
  const std::int64_t deadline_ms = boot_time_ms() + limit.count();
  // A process that CRIU forked may hold the socket open when CRIU is dead.
  pollfd waiting[2] = {{socket_.get(), POLLIN, 0}, {pidfd_.get(), POLLIN, 0}};
  for (;;) {
    auto left_ms = std::max<std::int64_t>(0, deadline_ms - boot_time_ms());
    int ready = ::poll(waiting, 2, static_cast<int>(left_ms));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return fail_errno("wait for criu");
    if (ready == 0) {
      kill_worker();
      worker_died_ = true;
      return fail(ErrorCode::TimedOut,
                  fmt::format("criu said nothing for {} s and was killed", limit.count() / 1000));
    }
  }
  std::vector<char> buffer(64 << 10);
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))];
  iovec io{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t count;
  do {
    count = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count <= 0) {
    worker_died_ = true;
    return fail(ErrorCode::Internal, "criu ended without an answer");
  }
  close_passed_descriptors(message);
  criu_rpc::Response response;
  if ((message.msg_flags & MSG_TRUNC) ||
      !response.ParseFromArray(buffer.data(), static_cast<int>(count)))
    return fail(ErrorCode::Internal, "criu sent a message that can't be read");
  return response;
}

Result<criu_rpc::Response> Session::converse(const criu_rpc::Request& request,
                                             std::chrono::milliseconds limit, const Hook& hook) {
  answered_ = false;
  BATON_CHECK(send(request));
  for (;;) {
    BATON_TRY(auto response, receive(limit));
    if (response.type() != criu_rpc::NOTIFY) {
      if (!response.success()) criu_message_ = worker_words(response);
      answered_ = true;
      return response;
    }
    Status outcome = hook ? hook(response.notify().script(), response.notify().pid()) : Status{};
    criu_rpc::Request answer;
    answer.set_type(criu_rpc::NOTIFY);
    answer.set_notify_success(outcome.has_value());
    Status sent = send(answer);
    if (!outcome) {
      // CRIU now undoes its work; its answer marks the end of that.
      while (sent) {
        auto last = receive(limit);
        if (!last) return std::unexpected(std::move(last).error());
        answered_ = last->type() != criu_rpc::NOTIFY;
        if (answered_) break;
        sent = send(answer);
      }
      return fail(std::move(outcome).error());
    }
    BATON_CHECK(sent);
  }
}

Result<Version> Session::version() {
  criu_rpc::Request request;
  request.set_type(criu_rpc::VERSION);
  BATON_TRY(auto response, converse(request, std::chrono::milliseconds(10'000), {}));
  if (!response.success() || !response.has_version())
    return fail(ErrorCode::Internal, "criu does not tell its version");
  return Version{response.version().major_number(), response.version().minor_number(),
                 response.version().sublevel()};
}

Result<bool> Session::can_track_memory() {
  criu_rpc::Request request;
  request.set_type(criu_rpc::FEATURE_CHECK);
  request.mutable_features()->set_mem_track(true);
  BATON_TRY(auto response, converse(request, std::chrono::milliseconds(10'000), {}));
  if (!response.success() || !response.has_features())
    return fail(ErrorCode::Internal, "criu does not tell its features");
  return response.features().mem_track();
}

Status Session::dump(pid_t root_pid, const SessionOptions& options, const Hook& hook) {
  criu_rpc::Request request;
  request.set_type(criu_rpc::DUMP);
  auto& opts = *request.mutable_opts();
  fill_common(opts, options);
  opts.set_pid(root_pid);
  opts.set_leave_running(true);
  opts.set_timeout(seize_timeout_s);
  if (options.track_memory) opts.set_track_mem(true);
  if (!options.parent_images.empty()) opts.set_parent_img(options.parent_images);
  BATON_TRY(auto response, converse(request, options.silence_limit, hook));
  if (!response.success())
    return fail(ErrorCode::Internal, criu_message_.empty() ? "dump failed" : criu_message_);
  return {};
}

Result<pid_t> Session::restore(const SessionOptions& options, const Hook& hook) {
  criu_rpc::Request request;
  request.set_type(criu_rpc::RESTORE);
  auto& opts = *request.mutable_opts();
  fill_common(opts, options);
  opts.set_rst_sibling(true);
  if (options.lazy_pages) opts.set_lazy_pages(true);
  BATON_TRY(auto response, converse(request, options.silence_limit, hook));
  if (!response.success())
    return fail(ErrorCode::Internal, criu_message_.empty() ? "restore failed" : criu_message_);
  return response.restore().pid();
}

}  // namespace baton::criu
