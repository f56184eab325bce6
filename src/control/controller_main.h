// `baton controller`.
#pragma once

#include "control/options.h"

namespace CLI {
class App;
}

namespace baton::control {

// Declares the options of `baton controller` on `app`; they end in `options`.
void add_options(CLI::App& app, ControllerOptions& options);

// Runs until SIGTERM or SIGINT. Returns the exit code of the process. The caller has no threads.
int run_controller(const ControllerOptions& options);

// argv[0] is the word "controller".
int controller_main(int argc, char** argv);

}  // namespace baton::control
