// `baton agent`: keeps one node's jobs alive and checkpointed, as the controller orders.
#pragma once

#include "agent/options.h"

namespace CLI {
class App;
}

namespace baton::agent {

// Declares the options of `baton agent` on `app`; they end in `options`.
void add_options(CLI::App& app, AgentOptions& options);

// Runs until SIGTERM or SIGINT; incarnations live on and are adopted by the next agent, until
// their lease runs out. Returns the exit code of the process.
int run_agent(AgentOptions options);

// argv[0] is the word "agent".
int agent_main(int argc, char** argv);

}  // namespace baton::agent
