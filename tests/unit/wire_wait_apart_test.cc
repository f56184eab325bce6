// A call that must be on time does not depend on a thread that waits for something else.
#include <grpcpp/server.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/fd.h"
#include "wire/baton.grpc.pb.h"
#include "wire/certificate.h"
#include "wire/channel.h"
#include "wire/identity.h"

namespace baton::wire {
namespace {

namespace fs = std::filesystem;

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

[[noreturn]] void serve(
    const std::string& address, int came,
    std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials()) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  Peer peer(came);
  grpc::ServerBuilder builder;
  configure(builder);
  builder.AddListeningPort(address, std::move(credentials));
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

// A controller's and a member's, of one cluster.
bool make_identities(const fs::path& controller, const fs::path& member) {
  const auto authority = make_authority("test", std::chrono::hours(1));
  if (!authority) return false;
  const auto make = [&](const fs::path& directory, const PeerName& name) {
    fs::create_directories(directory);
    const Identity identity(directory);
    const auto request = identity.request();
    if (!request) return false;
    const auto certificate = sign(*authority, *request, name, std::chrono::hours(1));
    return certificate && identity.save(authority->certificate, *certificate);
  };
  return make(controller, {PeerKind::Controller, "controller"}) &&
         make(member, {PeerKind::Node, "node-1"});
}

// 0: a channel whose calls failed, because nobody was there, finds who came later, though no call
// waits for that.
int call_who_comes_late(const std::string& address, const fs::path& scratch) {
  if (!make_identities(scratch / "controller", scratch / "member")) return 7;
  int come[2];
  if (::pipe(come) != 0) return 4;
  const pid_t server = ::fork();  // before this process has any thread
  if (server == 0) {
    char byte;
    if (::read(come[0], &byte, 1) == 1)
      serve(address, -1, server_credentials(Identity(scratch / "controller")));
    ::_exit(1);
  }
  wait_apart();
  const auto channel = open_channel(address, {.identity = scratch / "member"});
  if (!channel) return 2;
  const auto stub = v1::Cluster::NewStub(*channel);
  const auto code = [&] {
    grpc::ClientContext context;
    v1::HeartbeatReply reply;
    return stub->Heartbeat(&context, {}, &reply).error_code();
  };
  if (code() != grpc::StatusCode::UNAVAILABLE) return 3;
  (void)!::write(come[1], "", 1);
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  bool answered = false;
  while (!answered && std::chrono::steady_clock::now() < give_up) {
    answered = code() == grpc::StatusCode::UNIMPLEMENTED;
    ::usleep(10'000);
  }
  ::kill(server, SIGKILL);
  return answered ? 0 : 6;
}

[[noreturn]] void call_who_comes_late(const std::string& address) {
  const fs::path scratch = fs::temp_directory_path() / fmt::format("baton-late-{}", ::getpid());
  const int code = call_who_comes_late(address, scratch);
  fs::remove_all(scratch);
  ::_exit(code);
}

// Over TCP with certificates: there an attempt to connect has a second.
std::string free_address() {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (::bind(socket.get(), any, size) != 0 || ::getsockname(socket.get(), any, &size) != 0)
    return "";
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

TEST(WaitApartDeathTest, AConnectionIsMadeWhileNoCallWaits) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(call_who_comes_late(free_address()), testing::ExitedWithCode(0), "");
}

TEST(WaitApartDeathTest, ACallDoesNotWaitForTheThreadOfAnother) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // gRPC decides once in a process how it waits
  const std::string address = "unix:/tmp/baton-wait-apart-" + std::to_string(::getpid()) + ".sock";
  EXPECT_EXIT(call_beside_a_thread_that_stands_still(address), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace baton::wire
