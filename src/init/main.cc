// baton-init: pid 1 of a sandbox, and the root of the tree that is checkpointed.
#include <string.h>
#include <unistd.h>

#include "init/modes.h"
#include "init/util.h"

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "sandbox") == 0)
    return baton::init::sandbox_main(static_cast<int>(baton::init::number(argv[2])));
  if (argc == 2 && strcmp(argv[1], "root") == 0) return baton::init::root_main();
  if (argc == 2 && strcmp(argv[1], "probe-target") == 0) return baton::init::probe_target_main();
  baton::init::log_line("baton-init is started by baton's agent, not by hand");
  return 2;
}
