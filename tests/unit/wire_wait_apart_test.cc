// A call that must be on time does not depend on a thread that waits for something else.
#include <grpcpp/server.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::wire {
namespace {

class Peer final : public v1::Cluster::Service {
 public:
  explicit Peer(int came) : came_(came) {}
  // Not before the caller gives up.
  grpc::Status Register(grpc::ServerContext* context, const v1::RegisterRequest*,
                        v1::RegisterReply*) override {
    (void)!::write(came_, "", 1);
    while (!context->IsCancelled()) ::usleep(10'000);
    return grpc::Status::CANCELLED;
  }

 private:
  int came_;
};

[[noreturn]] void serve(const std::string& address, int came) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  Peer peer(came);
  grpc::ServerBuilder builder;
  configure(builder);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&peer);
  const auto server = builder.BuildAndStart();
  server->Wait();
  ::_exit(1);
}

std::unique_ptr<v1::Cluster::Stub> connect(const std::string& address) {
  auto channel = open_channel(address, {});
  if (!channel ||
      !(*channel)->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)))
    ::_exit(2);
  return v1::Cluster::NewStub(*channel);
}

bool sleeps(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
  const std::string stat{std::istreambuf_iterator<char>(file), {}};
  return stat.find(") S ") != std::string::npos;
}

std::atomic<bool> held = false, let_go = false;
void hold_thread(int) {
  held = true;
  while (!let_go) ::usleep(1'000);
}

// 0: a call was answered while the thread of another one stood still, as one does that gets no
// processor.
[[noreturn]] void call_beside_a_thread_that_stands_still(const std::string& address) {
  int came[2];
  if (::pipe(came) != 0) ::_exit(4);
  const pid_t server = ::fork();  // before this process has any thread
  if (server == 0) serve(address, came[1]);
  wait_apart();
  const auto slow = connect(address), prompt = connect(address);
  grpc::ClientContext slow_call;
  std::atomic<pid_t> tid = 0;
  std::thread waiting([&] {
    tid = ::gettid();
    v1::RegisterReply reply;
    (void)slow->Register(&slow_call, {}, &reply);
  });
  char byte;
  if (::read(came[0], &byte, 1) != 1) ::_exit(5);
  while (!sleeps(tid)) ::usleep(1'000);  // until it waits for the answer
  struct sigaction action {};
  action.sa_handler = hold_thread;
  ::sigaction(SIGUSR1, &action, nullptr);
  ::pthread_kill(waiting.native_handle(), SIGUSR1);
  while (!held) ::usleep(1'000);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::HeartbeatReply reply;
  const grpc::Status status = prompt->Heartbeat(&context, {}, &reply);
  let_go = true;
  slow_call.TryCancel();
  waiting.join();
  ::kill(server, SIGKILL);
  ::unlink(address.substr(address.find('/')).c_str());
  ::_exit(status.error_code() == grpc::StatusCode::UNIMPLEMENTED ? 0 : 3);
}

TEST(WaitApartDeathTest, ACallDoesNotWaitForTheThreadOfAnother) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // gRPC decides once in a process how it waits
  const std::string address = "unix:/tmp/baton-wait-apart-" + std::to_string(::getpid()) + ".sock";
  EXPECT_EXIT(call_beside_a_thread_that_stands_still(address), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace baton::wire
