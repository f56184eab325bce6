#include "agent_tracker_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "agent/engine/memory_save.h"
#include "criu/image_codec.h"
#include "image_pages.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

fs::path build_directory() { return fs::read_symlink("/proc/self/exe").parent_path(); }

fs::path criu_prefix() {
  if (const char* named = std::getenv("BATON_CRIU_PREFIX")) return named;
  return build_directory() / "criu";
}

std::string log_errors(const fs::path& path) {
  auto log = sys::read_file(path);
  std::string errors;
  for (std::size_t at = 0; log && (at = log->find("Error (", at)) != std::string::npos; ++at)
    errors += "\n" + log->substr(at, log->find('\n', at) - at);
  return errors;
}

}  // namespace

bool TrackerTest::have_criu() { return fs::exists(criu_prefix() / "bin" / "criu"); }

void TrackerTest::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  auto ability = sys::probe_tracking();
  if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
  // So that the orphans of what is killed here are reaped here: a restore needs their pids.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::string pattern = "/var/tmp/baton-tracker-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
}

void TrackerTest::TearDown() {
  while (!roots_.empty()) end(roots_.back());
  if (!directory_.empty()) (void)sys::remove_tree(directory_);
}

sys::Spawned TrackerTest::start(std::vector<std::string> arguments) {
  fs::path ready_file = directory_ / "ready";
  ::mkfifo(ready_file.c_str(), 0600);
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  // In a session of its own: CRIU wants the leader of the session in the tree.
  std::vector<std::string> argv = {"setsid",    build_directory() / "programs" / "memwork",
                                   "--scratch", directory_ / "scratch",
                                   "--ready",   ready_file,
                                   "--result",  result_file()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  auto spawned = sys::spawn({.program = "/usr/bin/setsid",
                             .argv = argv,
                             .env = {"PATH=/usr/bin:/bin"},
                             .fds = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}}});
  if (!spawned) {
    ADD_FAILURE() << spawned.error().message();
    return {};
  }
  roots_.push_back(spawned->pid);
  // Opening waits for the other side, which writes when its memory is filled.
  Fd ready(::open(ready_file.c_str(), O_RDONLY | O_CLOEXEC));
  char byte;
  EXPECT_EQ(::read(ready.get(), &byte, 1), 1);
  return std::move(*spawned);
}

bool TrackerTest::checks_out(pid_t pid) {
  (void)::unlink(result_file().c_str());
  auto process = sys::PidFd::open(pid);
  if (!process || !process->signal(SIGUSR1)) return false;
  if (!process->wait_ended(std::chrono::seconds(60))) return false;
  int status = 0;
  ::waitpid(pid, &status, 0);
  std::erase(roots_, pid);
  auto result = sys::read_file(result_file());
  if (!result) {
    ADD_FAILURE() << "it ended without a result, status " << status;
    return false;
  }
  if (!result->starts_with("OK ")) ADD_FAILURE() << *result;
  return result->starts_with("OK ") && status == 0;
}

void TrackerTest::end(pid_t root) {
  auto pids = sys::process_tree(root);
  for (pid_t pid : pids) ::kill(pid, SIGKILL);
  for (pid_t pid : pids) ::waitpid(pid, nullptr, 0);
  std::erase(roots_, root);
}

std::unique_ptr<Tracker> TrackerTest::make_tracker(TrackerOptions options) {
  options.packs_directory = directory_ / fmt::format("packs-{}", trackers_made_++);
  auto tracker = Tracker::create(options);
  EXPECT_TRUE(tracker) << tracker.error().message();
  return std::move(*tracker);
}

Status TrackerTest::with_criu(bool hide, const std::function<Status(criu::Session&)>& work) {
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
    return fail_errno("socketpair");
  Fd ours(sockets[0]), theirs(sockets[1]), null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  fs::path prefix = criu_prefix();
  sys::SpawnRequest request;
  request.program = prefix / "lib" / "ld.so";
  request.argv = {"ld.so",
                  "--library-path",
                  prefix / "lib",
                  "--preload",
                  build_directory() / "criu-shim.so",
                  prefix / "bin" / "criu",
                  "swrk",
                  "3"};
  request.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  if (hide) request.env.push_back("BATON_HIDE_TRACKED=1");
  request.fds = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}, {theirs.get(), 3}};
  BATON_TRY(sys::Spawned worker, sys::spawn(request));
  theirs.reset();
  Fd pidfd(::dup(worker.pidfd.get()));
  Status outcome;
  {
    criu::Session session(std::move(ours), std::move(pidfd));
    outcome = work(session);
    if (!outcome && !session.criu_message().empty())
      outcome = fail(std::move(outcome).error().context(session.criu_message()));
  }
  ::waitpid(worker.pid, nullptr, 0);
  return outcome;
}

Status TrackerTest::checkpoint(Tracker& tracker, pid_t root, const fs::path& images,
                               const std::function<Status()>& in_freeze) {
  BATON_CHECK(tracker.refresh(sys::process_tree(root)));
  BATON_TRY(precopy_, tracker.precopy());
  std::vector<FrozenMemory> memory;
  auto dumped = with_criu(true, [&](criu::Session& session) {
    auto hook = [&](std::string_view name, pid_t) -> Status {
      if (name != "post-dump") return {};
      BATON_TRY(memory, tracker.copy_rest(sys::process_tree(root)));
      return in_freeze ? in_freeze() : Status{};
    };
    criu::SessionOptions options;
    options.images_dir = images;
    options.log_file = "dump.log";
    return session.dump(root, options, hook);
  });
  BATON_CHECK(tracker.settle());
  if (!dumped) return fail(std::move(dumped).error().context(log_errors(images / "dump.log")));
  return assemble(tracker, memory, images);
}

// As a checkpoint's directory has it, and from there as a restore wants it: into `images`.
Status TrackerTest::assemble(Tracker& tracker, const std::vector<FrozenMemory>& memory,
                             const fs::path& images) {
  fs::path checkpoint = images.string() + ".checkpoint";
  fs::create_directories(checkpoint / "images");
  std::map<pid_t, pid_t> image_pids;
  for (const FrozenMemory& process : memory) {
    image_pids[process.pid] = process.pid;
    auto pid = static_cast<std::uint32_t>(process.pid);
    BATON_TRY(auto image, criu::read_pagemap(criu::pagemap_path(images, pid)));
    PageSet dumped;
    for (const auto& run : image.runs)
      if (run.flags & criu::pagemap_present) dumped.append(run.address, run.end());
    EXPECT_TRUE(intersect(dumped, process.pages).empty()) << "CRIU saw tracked memory";
    fs::path map = criu::pagemap_path(images, pid);
    fs::path pages = criu::pages_path(images, image.pages_id);
    fs::rename(map, checkpoint / "images" / map.filename());
    if (fs::exists(pages)) fs::rename(pages, checkpoint / "images" / pages.filename());
  }
  BATON_CHECK(tracker.save(memory, image_pids, checkpoint, false));
  BATON_TRY([[maybe_unused]] auto made, assemble_all(checkpoint, images));
  return {};
}

Status TrackerTest::full_dump(pid_t root, const fs::path& images) {
  return with_criu(false, [&](criu::Session& session) {
    criu::SessionOptions options;
    options.images_dir = images;
    options.log_file = "dump.log";
    return session.dump(root, options, {});
  });
}

Result<pid_t> TrackerTest::restore(const fs::path& images) {
  pid_t pid = 0;
  auto restored = with_criu(false, [&](criu::Session& session) -> Status {
    criu::SessionOptions options;
    options.images_dir = images;
    options.log_file = "restore.log";
    BATON_TRY(pid, session.restore(options, {}));
    return {};
  });
  if (!restored)
    return fail(std::move(restored).error().context(log_errors(images / "restore.log")));
  roots_.push_back(pid);
  return pid;
}

fs::path TrackerTest::make_directory(const std::string& name) {
  fs::create_directories(directory_ / name);
  return directory_ / name;
}

}  // namespace baton::agent
