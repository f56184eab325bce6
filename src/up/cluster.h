// The processes of one `baton up`. Single-threaded throughout.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sys/process.h"
#include "up/claims.h"
#include "up/options.h"
#include "up/respawn.h"

namespace baton::up {

class Cluster {
 public:
  explicit Cluster(const Options& options) : options_(options) {}
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;
  // Ends every process and removes every control group, mount, link and temporary file.
  ~Cluster();

  // Starts everything. After an error the destructor cleans up.
  Status start();
  // Serves until SIGINT, SIGTERM or SIGHUP. An error: it did not become ready.
  Status serve();

 private:
  struct Node {
    std::string name;
    std::string address;
    std::string cgroup;  // empty: none
    std::filesystem::path data;
    sys::Spawned process;
    bool up = false;
    std::int64_t power_on_at_ms = -1;  // boot time; -1: it is up, or stays off
  };

  Status claim();
  double quota() const;
  std::filesystem::path socket() const { return data_->path() / "baton.sock"; }
  Status start_controller();
  Status describe_nodes();
  // False: a signal came, and nothing more is to be started.
  Result<bool> make_join_tokens();
  static std::filesystem::path join_file(const Node& node) { return node.data / "join-token"; }
  Status start_node(int index);
  // Of those that are off and due.
  Status power_on();
  int wait_ms() const;  // for poll(): until something is due
  Status start_waiting();
  double real_time_share() const;
  Status make_group(Node& node);
  std::vector<std::string> agent_arguments(const Node& node) const;

  Status on_ready_check_ended();
  Status on_controller_ended();
  void on_node_ended(int index);
  Status write_state() const;
  void keep_state();
  Status announce();
  void stop_controller();

  Options options_;
  // In this order: members are destroyed from the last to the first.
  std::optional<DataDirectory> data_;
  std::optional<ClusterGroup> group_;
  bool real_time_ = false;  // the group has some to give
  std::optional<DefaultSocket> default_socket_;
  std::vector<Node> nodes_;
  std::optional<sys::Spawned> controller_;
  Respawn controller_respawn_;
  std::optional<sys::Spawned> ready_check_;
  bool ready_ = false;
  std::int64_t state_again_at_ms_ = -1;  // boot time, to write up.json; -1: it is written
  Fd signals_;
  Fd ready_fd_;
};

}  // namespace baton::up
