// The wall clock is stepped back while calls wait (src/wire/steady_waits.cc).
#include <fcntl.h>
#include <grpcpp/server.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "base/fd.h"
#include "sys/file.h"
#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::wire {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr std::int64_t kHourNs = 3'600'000'000'000;

// Answers no call before it is called off.
class Silent final : public v1::Cluster::Service {
 public:
  grpc::Status Register(grpc::ServerContext* context, const v1::RegisterRequest*,
                        v1::RegisterReply*) override {
    came.set_value();
    while (!context->IsCancelled()) ::usleep(10'000);
    return grpc::Status::CANCELLED;
  }
  std::promise<void> came;
};

std::atomic<std::int64_t>* clock_file(const char* path) {
  auto fd = sys::open_file(path, O_RDWR);
  if (!fd) return nullptr;
  void* at =
      ::mmap(nullptr, sizeof(std::int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::atomic<std::int64_t>*>(at);
}

// 0: a call's deadline held though the clock went back an hour. 1: it did not in 20 s.
int call_while_the_clock_is_stepped() {
  auto* const ahead_ns = clock_file(std::getenv("BATON_TEST_CLOCK"));
  if (!ahead_ns) return 2;
  const auto before = std::chrono::system_clock::now();
  *ahead_ns += kHourNs;
  if (std::chrono::system_clock::now() - before < seconds(3'000)) return 3;  // it is not our clock
  Silent service;
  grpc::ServerBuilder builder;
  configure(builder);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  const auto channel = open_channel("127.0.0.1:" + std::to_string(port), {.insecure = true});
  if (!channel) return 4;
  std::promise<grpc::Status> ended;
  std::thread caller([&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(2));
    v1::RegisterReply reply;
    ended.set_value(v1::Cluster::NewStub(*channel)->Register(&context, {}, &reply));
  });
  service.came.get_future().wait();
  ::usleep(100'000);  // what other timers there are for a start have passed
  *ahead_ns -= kHourNs;
  auto end = ended.get_future();
  if (end.wait_for(seconds(20)) != std::future_status::ready) ::_exit(1);  // the caller still waits
  caller.join();
  server->Shutdown(std::chrono::system_clock::now());
  return end.get().error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ? 0 : 5;
}

TEST(SteadyWaitsDeathTest, DeadlinesHoldWhenTheWallClockGoesBack) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's library has to be loaded before all others";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the process is made anew, with the library
  const std::string clock =
      (fs::temp_directory_path() / ("baton-clock-" + std::to_string(::getpid()))).string();
  if (!std::getenv("BATON_TEST_CLOCK")) {
    std::ofstream(clock) << std::string(sizeof(std::int64_t), '\0');
    ::setenv("BATON_TEST_CLOCK", clock.c_str(), 1);
    ::setenv("LD_PRELOAD",
             (fs::read_symlink("/proc/self/exe").parent_path() / "stepped-clock.so").c_str(), 1);
  }
  EXPECT_EXIT(::_exit(call_while_the_clock_is_stepped()), testing::ExitedWithCode(0), "");
  ::unsetenv("LD_PRELOAD");
  ::unsetenv("BATON_TEST_CLOCK");
  fs::remove(clock);
}

}  // namespace
}  // namespace baton::wire
