// Who gets an answer: every call of every service against every kind of caller, over real TLS.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/stat.h>

#include <set>

#include "control/access.h"
#include "control/blocking_call.h"
#include "control_fixture.h"
#include "wire/identity.grpc.pb.h"
#include "wire/membership.h"

namespace baton::control {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using Channel = std::shared_ptr<grpc::Channel>;

std::vector<const MethodDescriptor*> all_methods() {
  std::vector<const MethodDescriptor*> methods;
  for (const auto* file : {v1::Empty::descriptor()->file(), v1::Token::descriptor()->file()})
    for (int s = 0; s < file->service_count(); ++s)
      for (int m = 0; m < file->service(s)->method_count(); ++m)
        methods.push_back(file->service(s)->method(m));
  return methods;
}

std::string path_of(const MethodDescriptor& method) {
  return "/" + method.service()->full_name() + "/" + method.name();
}

std::unique_ptr<Message> new_request(const MethodDescriptor& method) {
  return std::unique_ptr<Message>(google::protobuf::MessageFactory::generated_factory()
                                      ->GetPrototype(method.input_type())
                                      ->New());
}

// Puts the job's name wherever the message refers to a job. False: nowhere.
bool name_job(Message& message, const std::string& name) {
  if (message.GetDescriptor() == v1::JobRef::descriptor()) {
    static_cast<v1::JobRef&>(message).set_name_or_id(name);
    return true;
  }
  bool named = false;
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto* field = message.GetDescriptor()->field(i);
    if (field->is_repeated() || field->message_type() == nullptr) continue;
    if (field->message_type() != v1::JobRef::descriptor() &&
        field->message_type() != v1::CheckpointRef::descriptor())
      continue;
    named |= name_job(*reflection->MutableMessage(&message, field), name);
  }
  return named;
}

// One call of whatever kind with one message in it; on the wire they are all alike.
grpc::Status call_any(const Channel& channel, const std::string& path, const Message& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  auto call = stub.PrepareCall(&context, path, &queue);
  auto done = [&] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return ok;
  };
  call->StartCall(nullptr);
  if (done()) {
    const std::string bytes = request.SerializeAsString();
    const grpc::Slice slice(bytes);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    done();
    for (grpc::ByteBuffer reply;;) {
      call->Read(&reply, nullptr);
      if (!done()) break;
    }
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  done();
  queue.Shutdown();
  return status;
}

bool is_refusal(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
}

class AccessTest : public ControllerTest {
 protected:
  ControllerOptions options() const override {
    ControllerOptions options = ControllerTest::options();
    options.listen_api = {"127.0.0.1:0"};
    return options;
  }
  std::string agents() const { return fmt::format("127.0.0.1:{}", controller_->ports().at(0)); }
  std::string users() const { return fmt::format("127.0.0.1:{}", controller_->ports().at(1)); }

  wire::JoinToken token(v1::IdentityKind kind, const std::string& name,
                        v1::Role role = v1::ROLE_VIEWER) {
    v1::CreateTokenRequest request;
    request.set_kind(kind);
    request.set_name(name);
    request.set_role(role);
    auto token = controller_->members().create_token(request, wall_time_ms());
    EXPECT_TRUE(token) << token.error().message();
    return *wire::parse_join_token(token->text());
  }
  wire::Security join(v1::IdentityKind kind, const std::string& name,
                      v1::Role role = v1::ROLE_VIEWER) {
    const wire::Identity identity(directory_.path() / ("of-" + name));
    auto joined = wire::join(agents(), token(kind, name, role), name, identity);
    EXPECT_TRUE(joined) << joined.error().message();
    return {identity.directory()};
  }
  Channel as_user(const std::string& name, v1::Role role) {
    return *wire::open_channel(users(), join(v1::IDENTITY_USER, name, role));
  }
  Channel as_node(const std::string& name) {
    return *wire::open_channel(agents(), join(v1::IDENTITY_NODE, name));
  }
  // On whichever port has the service, as somebody.
  Channel nobody(const MethodDescriptor& method) {
    const bool cluster = method.service()->name() == "Cluster";
    return *wire::open_joining_channel(cluster ? agents() : users(),
                                       controller_->members().authority());
  }
  grpc::Status try_call(const Channel& channel, const MethodDescriptor& method) {
    return call_any(channel, path_of(method), *new_request(method));
  }
};

TEST(AccessRules, EveryCallHasOne) {
  ASSERT_GT(all_methods().size(), 40u);
  for (const auto* method : all_methods())
    EXPECT_TRUE(find_rule(path_of(*method))) << path_of(*method) << " lets in nobody";
  EXPECT_FALSE(find_rule("/baton.v1.Api/NoSuchCall"));
  EXPECT_FALSE(find_rule(""));
}

// A call about a job is the owner's, unless it only looks.
TEST(AccessRules, CallsThatNameAJobAreItsOwnersOrOnlyLook) {
  const std::set<std::string> looking = {"GetJob",          "Logs",   "Wait",
                                         "ListCheckpoints", "Events", "Verify",
                                         "PlanMove"};
  for (const auto* method : all_methods()) {
    if (!name_job(*new_request(*method), "x")) continue;
    const auto rule = find_rule(path_of(*method));
    ASSERT_TRUE(rule);
    EXPECT_TRUE(rule->own_jobs || rule->least >= v1::ROLE_OPERATOR ||
                looking.contains(method->name()))
        << path_of(*method);
  }
}

TEST_F(AccessTest, WithoutACertificateOneMayJoinAndNothingElse) {
  for (const auto* method : all_methods()) {
    const grpc::Status status = try_call(nobody(*method), *method);
    EXPECT_TRUE(is_refusal(status)) << path_of(*method) << ": " << status.error_message();
    EXPECT_EQ(status.error_message().find("token") != std::string::npos, method->name() == "Enroll")
        << path_of(*method) << ": " << status.error_message();
  }
}

TEST_F(AccessTest, ARoleOpensWhatItsRuleSays) {
  const std::pair<v1::Role, const char*> roles[] = {{v1::ROLE_VIEWER, "viewer"},
                                                    {v1::ROLE_USER, "user"},
                                                    {v1::ROLE_OPERATOR, "operator"},
                                                    {v1::ROLE_ADMIN, "admin"}};
  for (const auto& [role, name] : roles) {
    const Channel channel = as_user(name, role);
    for (const auto* method : all_methods()) {
      if (method->service()->name() == "Cluster") continue;  // not on this port
      const auto rule = find_rule(path_of(*method));
      if (rule->whom == Rule::For::Everybody) continue;
      const bool open = rule->whom == Rule::For::Members || role >= rule->least;
      const grpc::Status status = try_call(channel, *method);
      EXPECT_EQ(is_refusal(status), !open)
          << name << " " << path_of(*method) << ": " << status.error_message();
    }
  }
}

TEST_F(AccessTest, NodesAndUsersHaveTheirOwnCalls) {
  const wire::Security node = join(v1::IDENTITY_NODE, "node-1");
  const wire::Security admin = join(v1::IDENTITY_USER, "admin", v1::ROLE_ADMIN);
  for (const auto* method : all_methods()) {
    const auto rule = find_rule(path_of(*method));
    if (rule->whom != Rule::For::Users && rule->whom != Rule::For::Nodes) continue;
    const bool for_users = rule->whom == Rule::For::Users;
    const Channel wrong =
        for_users ? *wire::open_channel(users(), node) : *wire::open_channel(agents(), admin);
    EXPECT_TRUE(is_refusal(try_call(wrong, *method))) << path_of(*method);
  }
}

TEST_F(AccessTest, ARevokedCertificateOpensNothing) {
  const Channel user = as_user("eve", v1::ROLE_ADMIN);
  const Channel node = as_node("node-1");
  EXPECT_FALSE(is_refusal(call_any(user, "/baton.v1.Api/ListNodes", v1::Empty())));
  ASSERT_TRUE(controller_->members().revoke(wire::PeerKind::User, "eve"));
  ASSERT_TRUE(controller_->members().revoke(wire::PeerKind::Node, "node-1"));
  for (const auto* method : all_methods()) {
    const bool cluster = method->service()->name() == "Cluster";
    if (method->name() == "Enroll") continue;
    const grpc::Status status = try_call(cluster ? node : user, *method);
    EXPECT_TRUE(is_refusal(status)) << path_of(*method) << ": " << status.error_message();
  }
}

TEST_F(AccessTest, AnotherClustersCertificateIsNoConnection) {
  const fakes::TempDir elsewhere;
  auto other = Members::open(elsewhere.path());
  ASSERT_TRUE(other);
  const wire::Identity identity(elsewhere.path() / "id");
  v1::CreateTokenRequest request;
  request.set_kind(v1::IDENTITY_USER);
  request.set_name("mallory");
  request.set_role(v1::ROLE_ADMIN);
  const auto secret = wire::parse_join_token((*other)->create_token(request, 0)->text())->secret;
  v1::EnrollRequest enroll;
  enroll.set_secret(secret);
  enroll.set_request(*identity.request());
  // It trusts this cluster, but is signed by the other.
  ASSERT_TRUE(identity.save(controller_->members().authority(), *(*other)->enroll(enroll, 0)));
  const auto status = call_any(*wire::open_channel(users(), {identity.directory()}),
                               "/baton.v1.Api/ListNodes", v1::Empty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  // And the other way round: who trusts another cluster does not speak to this controller.
  const auto joined = wire::open_joining_channel(users(), (*other)->authority());
  EXPECT_EQ(call_any(*joined, "/baton.v1.Membership/Enroll", v1::EnrollRequest()).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

// A node's certificate is for clients: it can't play the controller to others.
TEST_F(AccessTest, ANodeCanNotPlayTheController) {
  const wire::Security node = join(v1::IDENTITY_NODE, "node-1");
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", wire::server_credentials(wire::Identity(node.identity)),
                           &port);
  v1::Membership::Service service;
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  const auto channel = wire::open_joining_channel(fmt::format("127.0.0.1:{}", port),
                                                  controller_->members().authority());
  EXPECT_EQ(call_any(*channel, "/baton.v1.Membership/Enroll", v1::EnrollRequest()).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  server->Shutdown();
}

TEST_F(AccessTest, SomebodyElsesJobIsLeftAlone) {
  const Channel alice = as_user("alice", v1::ROLE_USER);
  const Channel bob = as_user("bob", v1::ROLE_USER);
  v1::RunRequest request;
  *request.mutable_spec() = spec("work");
  (*request.mutable_spec()->mutable_env())["KEY"] = "secret";
  request.mutable_spec()->set_owner("bob");  // as if that counted
  v1::Job job;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::Api::NewStub(alice)->Run(&context, request, &job).ok());
  EXPECT_EQ(job.spec().owner(), "alice");
  EXPECT_EQ(job.spec().env().at("KEY"), "secret");
  int tried = 0;
  for (const auto* method : all_methods()) {
    const auto rule = find_rule(path_of(*method));
    if (!rule->own_jobs) continue;
    auto message = new_request(*method);
    ASSERT_TRUE(name_job(*message, "work")) << path_of(*method);
    if (auto* kill = dynamic_cast<v1::KillRequest*>(message.get())) kill->set_signal(9);
    const grpc::Status status = call_any(bob, path_of(*method), *message);
    EXPECT_TRUE(is_refusal(status)) << path_of(*method) << ": " << status.error_message();
    EXPECT_NE(status.error_message().find("belongs to alice"), std::string::npos)
        << path_of(*method) << ": " << status.error_message();
    ++tried;
  }
  EXPECT_GE(tried, 11);
  for (const Channel& other : {bob, as_user("viewer", v1::ROLE_VIEWER)}) {
    grpc::ClientContext look;
    ASSERT_TRUE(v1::Api::NewStub(other)->GetJob(&look, ref("work"), &job).ok());
    EXPECT_EQ(job.spec().env().at("KEY"), "(hidden)");
    grpc::ClientContext list;
    v1::ListJobsReply jobs;
    ASSERT_TRUE(v1::Api::NewStub(other)->ListJobs(&list, v1::ListJobsRequest(), &jobs).ok());
    EXPECT_EQ(jobs.jobs(0).spec().env().at("KEY"), "(hidden)");
  }
  // The owner's hand, and an operator's, reach it.
  v1::StopRequest stop;
  *stop.mutable_job() = ref("work");
  EXPECT_TRUE(call_any(as_user("op", v1::ROLE_OPERATOR), "/baton.v1.Api/Stop", stop).ok());
  EXPECT_TRUE(call_any(alice, "/baton.v1.Api/Remove", ref("work")).ok());
}

TEST_F(AccessTest, ANodeSpeaksForItselfAlone) {
  const Channel one = as_node("node-1"), two = as_node("node-2");
  fakes::FakeAgent agent(one, "node-1"), impostor(two, "node-1", "epoch-2");
  ASSERT_OK(agent.enroll());
  agent.attach();
  EXPECT_EQ(impostor.enroll().error().code(), ErrorCode::Forbidden);
  EXPECT_EQ(impostor.heartbeat().error().code(), ErrorCode::Forbidden);
  ASSERT_TRUE(agent.heartbeat()->renewed());
  const std::uint64_t work = run_on(agent, spec("work", "node-1"));
  ASSERT_NE(work, 0u);
  ASSERT_OK(agent.ship(work, 1, 0, "mine"));
  auto number = agent.upload(work, 1, 4, {{"images/core.img", "memory"}});
  ASSERT_OK(number);
  // Another member of the cluster, with a name of its own.
  fakes::FakeAgent other(two, "node-2");
  ASSERT_OK(other.enroll());
  EXPECT_EQ(other.ship(work, 1, 4, "forged").error().code(), ErrorCode::Forbidden);
  EXPECT_EQ(other.upload(work, 1, 4, {{"images/core.img", "forged"}}).error().code(),
            ErrorCode::Forbidden);
  EXPECT_EQ(other.download(work, 1, *number).error().code(), ErrorCode::Forbidden);
  EXPECT_EQ(other.download(work, 0, *number).error().code(), ErrorCode::StaleGeneration);
  EXPECT_EQ(other.report_exit(work, 1, 0, 4).error().code(), ErrorCode::Forbidden);
  EXPECT_EQ(this->job("work").state(), v1::JOB_RUNNING);
  ASSERT_OK(agent.download(work, 1, *number));
  EXPECT_EQ(logs("work"), "mine");
}

TEST_F(AccessTest, WhoIsShutOutHearsNoMore) {
  const Channel node = as_node("node-1");
  fakes::FakeAgent agent(node, "node-1");
  ASSERT_OK(agent.enroll());
  agent.attach();
  const Channel eve = as_user("eve", v1::ROLE_VIEWER);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::EventsRequest request;
  request.set_follow(true);
  auto stream = v1::Api::NewStub(eve)->Events(&context, request);
  v1::Event event;
  ASSERT_TRUE(stream->Read(&event));  // of the node
  v1::RevokeRequest revoke;
  v1::Identity gone;
  auto membership = v1::Membership::NewStub(*wire::open_channel(address_));
  for (const auto& [kind, name] :
       {std::pair{v1::IDENTITY_USER, "eve"}, std::pair{v1::IDENTITY_NODE, "node-1"}}) {
    grpc::ClientContext call;
    revoke.set_kind(kind);
    revoke.set_name(name);
    const auto status = membership->Revoke(&call, revoke, &gone);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  ASSERT_OK(run(spec("work")));  // makes an event
  while (stream->Read(&event)) EXPECT_NE(event.job_name(), "work");
  EXPECT_TRUE(is_refusal(stream->Finish()));
  EXPECT_EQ(agent.heartbeat().error().code(), ErrorCode::Forbidden);
  EXPECT_TRUE(agent.await_cut());
  EXPECT_EQ(agent.waiting_orders(), 0u);
}

TEST_F(AccessTest, ACertificateIsRenewedByItsOwner) {
  const wire::Security security = join(v1::IDENTITY_NODE, "node-1");
  const wire::Identity identity(security.identity);
  const auto before = identity.facts()->name;
  ASSERT_OK(wire::renew(*wire::open_channel(agents(), security), identity));
  EXPECT_EQ(identity.facts()->name->name, "node-1");
  EXPECT_NE(identity.facts()->name->number, before->number);
  fakes::FakeAgent agent(*wire::open_channel(agents(), security), "node-1");
  ASSERT_OK(agent.enroll());
}

TEST_F(AccessTest, TheSocketIsRootsAndNeedsNoCertificate) {
  struct stat status {};
  ASSERT_EQ(::stat(controller_->socket().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  auto stub = v1::Membership::NewStub(*wire::open_channel(address_));
  grpc::ClientContext context;
  v1::ListIdentitiesReply reply;
  EXPECT_TRUE(stub->List(&context, v1::ListIdentitiesRequest(), &reply).ok());
  grpc::ClientContext renewing;
  v1::Certificate certificate;
  EXPECT_EQ(stub->Renew(&renewing, v1::RenewRequest(), &certificate).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

// Each on a stream of its own, from the first event on.
class Follower {
 public:
  explicit Follower(v1::Api::Stub& stub) {
    v1::EventsRequest request;
    request.set_follow(true);
    reader_ = stub.Events(&context_, request);
    v1::Event event;
    follows_ = reader_->Read(&event);
  }
  ~Follower() {
    context_.TryCancel();
    if (!finished_) (void)reader_->Finish();
  }
  bool follows() const { return follows_; }
  grpc::Status finish() {
    finished_ = true;
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::Event>> reader_;
  bool follows_, finished_ = false;
};

TEST_F(AccessTest, WhoFollowsTooMuchLeavesOthersTheirTurn) {
  fakes::FakeAgent agent(as_node("node-1"), "node-1");
  ASSERT_OK(agent.enroll());  // which is an event
  const auto alice = v1::Api::NewStub(as_user("alice", v1::ROLE_VIEWER));
  const auto bob = v1::Api::NewStub(as_user("bob", v1::ROLE_VIEWER));
  std::vector<std::unique_ptr<Follower>> followers;
  for (int i = 0; i < CallGroup::kMostThreadsOfOne; ++i) {
    followers.push_back(std::make_unique<Follower>(*alice));
    ASSERT_TRUE(followers.back()->follows()) << i;
  }
  for (int i = 0; i < 3; ++i) {
    Follower refused(*alice);
    ASSERT_FALSE(refused.follows());
    const grpc::Status status = refused.finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), testing::HasSubstr("user alice has"));
  }
  EXPECT_TRUE(Follower(*bob).follows());
  followers.clear();
  // The controller hears of it a moment later.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!Follower(*alice).follows()) ASSERT_LT(std::chrono::steady_clock::now(), until);
}

TEST(Insecure, IsForLoopbackAlone) {
  const fakes::TempDir folder;
  ControllerOptions options;
  options.data = folder.path();
  options.insecure = true;
  options.listen = {"0.0.0.0:0"};
  EXPECT_EQ(Controller::start(options).error().code(), ErrorCode::InvalidArgument);
  EXPECT_EQ(wire::open_channel("192.0.2.1:7077", {.insecure = true}).error().code(),
            ErrorCode::InvalidArgument);
  options.listen = {"127.0.0.1:0"};
  auto controller = Controller::start(options);
  ASSERT_TRUE(controller) << controller.error().message();
  fakes::FakeAgent agent(*wire::open_channel(fmt::format("127.0.0.1:{}", (*controller)->ports()[0]),
                                             {.insecure = true}),
                         "node-1");
  ASSERT_OK(agent.enroll());
}

}  // namespace
}  // namespace baton::control
