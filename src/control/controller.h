// The controller as a whole: its data directory, its state and its servers.
//
//   DATA/state.db  DATA/checkpoints/  DATA/shared/  DATA/keys/  DATA/logs/  DATA/baton.sock
//   DATA/lock DATA/members.db  DATA/identity/
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "control/api_service.h"
#include "control/cluster_service.h"
#include "control/membership_service.h"
#include "control/options.h"
#include "control/rebuild.h"
#include "control/scrubber.h"
#include "control/store_service.h"

namespace baton::control {

class Controller {
 public:
  // Opens the data directory (FailedPrecondition: another process has it), takes up what is
  // recorded there, and serves. Threads run until the object goes.
  static Result<std::unique_ptr<Controller>> start(const ControllerOptions& options);
  // Ends every call and stops. Quick: nobody is waited for.
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  Loop& loop() { return *loop_; }
  Members& members() { return *members_; }
  // The TCP ports bound for agents and for users, in the order of the options.
  const std::vector<int>& ports() const { return ports_; }
  const std::string& socket() const { return socket_; }

 private:
  // One server and the services it has; a gRPC service object belongs to one server.
  struct Endpoint {
    std::unique_ptr<ClusterService> cluster;
    std::unique_ptr<ApiService> api;
    std::unique_ptr<StoreService> store;
    std::unique_ptr<MembershipService> membership;
    std::unique_ptr<grpc::Server> server;
  };

  Controller() = default;
  Status open_stores(const ControllerOptions& options);
  Status take_up(const ControllerOptions& options);
  // What state.db has. When that is lost, and there were jobs: what is known without it.
  Result<Loaded> load_state(const ControllerOptions& options, const core::Config& config,
                            const v1::Policy& policy);
  void tell_members_lost();
  Status remove_orphans();
  Status serve(const ControllerOptions& options);
  // Calls use(address, for agents, for users) for each. The socket is root's alone.
  using UseAddress = std::function<Status(const std::string& address, bool cluster, bool api)>;
  Status each_address(const ControllerOptions& options, const UseAddress& use);
  Status listen(const std::string& address, bool cluster, bool api, bool insecure);
  // `with` registers the services.
  Result<std::unique_ptr<grpc::Server>> start_server(
      const std::string& address, bool insecure, int& port,
      const std::function<void(grpc::ServerBuilder&)>& with);
  // Asks all nodes what runs there, for as long as anything may run that nobody reports.
  Result<CensusResult> take_census(const ControllerOptions& options, const core::Config& config,
                                   const v1::Policy& policy);

  Fd lock_;
  std::unique_ptr<StateDb> db_;
  std::unique_ptr<store::CheckpointStore> checkpoints_;
  std::unique_ptr<OutputLogs> logs_;
  std::unique_ptr<Ballast> ballast_;
  std::unique_ptr<Members> members_;
  std::shared_ptr<Access> access_;  // gRPC keeps it as long as a server does
  EventLog events_;
  CallGroup calls_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ServiceContext> context_;
  std::unique_ptr<Bulk> bulk_;
  std::unique_ptr<Scrubber> scrubber_;
  std::vector<Endpoint> endpoints_;
  std::vector<int> ports_;
  std::string socket_;
};

}  // namespace baton::control
