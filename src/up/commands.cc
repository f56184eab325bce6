// The commands `up`, and, hidden, `up-node` and `up-child`.
#include <unistd.h>

#include <memory>

#include "base/log.h"
#include "up/child.h"
#include "up/cluster.h"
#include "up/node.h"
#include "up/tool.h"
#include "up/up.h"

namespace baton::up {
namespace {

constexpr int kMostNodes = 200;  // addresses of the subnet

int report(const Status& status) {
  if (status) return 0;
  fmt::print(stderr, "baton: {}\n", status.error().message());
  return 1;
}

Status run_up(const Options& options) {
  if (::geteuid() != 0)
    return fail(ErrorCode::FailedPrecondition,
                "`baton up` must be run as root: it makes namespaces and runs CRIU");
  log_init("up");
  Cluster cluster(options);
  BATON_CHECK(cluster.start());
  BATON_CHECK(cluster.serve());
  fmt::print("\nEnding the cluster.\n");
  std::fflush(stdout);
  return {};
}

// Becomes this program with other arguments, bound to its parent's life.
Status become(int go_fd, std::vector<std::string> arguments) {
  BATON_CHECK(start_under_parent(go_fd));
  if (::setsid() < 0) return fail_errno("setsid");
  const sys::SpawnRequest request = ourselves(arguments);
  std::vector<char*> words;
  for (const std::string& word : request.argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execv(request.program.c_str(), words.data());
  return fail_errno("start anew");
}

void add_up(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  auto* command = app.add_subcommand("up", "Run a whole cluster on this machine until Ctrl-C");
  command->footer(
      "A controller and nodes, each with its own processes, mounts, host name, network address\n"
      "(10.77.0.0/24 behind a bridge that only they see) and CPU quota, so that each can be\n"
      "overloaded, cut off or killed alone. Killing a node's pid 1 is its power cut. Jobs see the\n"
      "machine's files, not its network.\n\n"
      "Ctrl-C ends the cluster and its jobs. With --data their checkpoints stay, and the next\n"
      "`baton up` with the same directory goes on with them. DATA/up.json tells scripts about\n"
      "pids, addresses and control groups.");
  command->add_option("--nodes", options->nodes, "Number of nodes")
      ->capture_default_str()
      ->check(CLI::Range(1, kMostNodes));
  command->add_option("--data", options->data,
                      "Directory for checkpoints, output and state. Default: a temporary one");
  command->add_option("--lease", options->lease,
                      "How long a silent node counts as alive; a lost node's jobs stand still for "
                      "at least so long. Default: the controller's, 3s");
  command
      ->add_option("--cpu-quota", options->cpu_quota,
                   "CPUs per node. Default: 1, or what makes all nodes fit")
      ->check(CLI::Range(0.01, 65'536.0));
  command->add_option("--policy", options->policy, "Policy file of the controller")
      ->check(CLI::ExistingFile);
  auto* key_file =
      command
          ->add_option("--store-key-file", options->store_key_file,
                       "Encrypt the controller's checkpoints, see baton controller --help. Copies "
                       "on nodes are not encrypted")
          ->check(CLI::ExistingFile);
  command
      ->add_option("--store-key-command", options->store_key_command,
                   "The same key from what this command prints")
      ->excludes(key_file);
  command
      ->add_option("--old-store-key-file", options->old_store_key_file,
                   "The key that this one takes the place of")
      ->check(CLI::ExistingFile);
  command->add_option("--old-store-key-command", options->old_store_key_command, "The same");
  command
      ->add_option("--criu-prefix", options->criu,
                   "Directory of the CRIU to use, see scripts/provision-criu")
      ->check(CLI::ExistingDirectory);
  command->add_flag("--no-restart", options->no_restart,
                    "Leave an agent or controller that dies dead. Default: start it again");
  command
      ->add_option_function<double>(
          "--power-on-after",
          [options](double seconds) {
            options->power_on_after_ms = static_cast<std::int64_t>(seconds * 1000);
          },
          "Seconds after which a node whose power was cut comes back. Default: never")
      ->check(CLI::Range(0.0, 1e6));
  command->add_option("--ready-fd", options->ready_fd,
                      "Write a line to this descriptor when all nodes are up");
  command->callback([options, &exit_code] { exit_code = report(run_up(*options)); });
}

void add_node(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<NodeOptions>();
  auto* command = app.add_subcommand("up-node", "Pid 1 of a node")->group("");
  command->add_option("--name", options->name)->required();
  command->add_option("--address", options->address)->required();
  command->add_option("--go-fd", options->go_fd)->required();
  command->add_flag("--no-restart", options->no_restart);
  command->add_option("AGENT", options->agent)->required();
  command->callback([options, &exit_code] {
    log_init(options->name);
    exit_code = report(run_node(*options));
  });
}

void add_child(CLI::App& app, int& exit_code) {
  struct Child {
    int go_fd = -1;
    std::vector<std::string> arguments;
  };
  auto child = std::make_shared<Child>();
  auto* command = app.add_subcommand("up-child", "A service of a cluster")->group("");
  command->add_option("--go-fd", child->go_fd)->required();
  command->add_option("SERVICE", child->arguments)->required();
  command->callback(
      [child, &exit_code] { exit_code = report(become(child->go_fd, child->arguments)); });
}

}  // namespace

void add_commands(CLI::App& app, int& exit_code) {
  add_up(app, exit_code);
  add_node(app, exit_code);
  add_child(app, exit_code);
}

}  // namespace baton::up
