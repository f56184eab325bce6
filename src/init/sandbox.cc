#include <sys/stat.h>
#include <unistd.h>

#include "init/build.h"
#include "init/modes.h"
#include "init/spawn.h"
#include "init/supervisor.h"
#include "init/util.h"

namespace baton::init {

int sandbox_main(int group_count) {
  close_range(static_cast<unsigned>(kFirstGroupFd + group_count), ~0U, 0);
  reset_signals();
  block_all_signals();
  setsid();
  umask(022);

  static Supervisor supervisor;
  static Report report;
  Built built;
  if (!build_sandbox(&built, &report) ||
      !supervisor.prepare(built.lease_deadline_boot_ns, &report)) {
    if (write(kReportFd, &report, sizeof report) < 0) return 2;
    return 1;
  }
  set_child_groups(group_count);
  raise_priority();
  close(kReportFd);
  supervisor.run();
}

}  // namespace baton::init
