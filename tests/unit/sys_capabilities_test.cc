// Giving up capabilities, in a child of its own each time.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/capabilities.h"

namespace baton::sys {
namespace {

TEST(Capabilities, HaveNames) {
  EXPECT_EQ(capability_named("NET_ADMIN").value_or(0), capability_set({CAP_NET_ADMIN}));
  EXPECT_EQ(capability_named("cap_checkpoint_restore").value_or(0),
            capability_set({CAP_CHECKPOINT_RESTORE}));
  for (const char* name : {"", "cap_", "net-admin", "everything", "cap_cap_chown"})
    EXPECT_FALSE(capability_named(name)) << name;
  EXPECT_EQ(capability_names(capability_set({CAP_CHOWN, CAP_MKNOD})), "chown, mknod");
  EXPECT_EQ(capability_names(0), "none");
  EXPECT_EQ(kJobCapabilities & ~kAgentCapabilities, 0u);
}

// The child's exit code.
template <typename Function>
int in_child(Function function) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(function());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Capabilities, WhatIsGivenUpDoesNotComeBackWithAnExec) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const Capabilities kept = capability_set({CAP_CHOWN, CAP_KILL});
  ASSERT_EQ(own_capabilities() & kept, kept);
  EXPECT_EQ(in_child([&] {
              const auto left = keep_capabilities(kept);
              if (!left || *left != kept || own_capabilities() != kept) return 1;
              ::execl("/bin/sh", "sh", "-c",
                      "[ $(grep -c 0000000000000021 /proc/self/status) = 3 ] && "
                      "grep -q 'CapInh:.*0000000000000000' /proc/self/status",
                      nullptr);
              return 2;
            }),
            0);
}

TEST(Capabilities, WithoutTheRightToIsSaid) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  EXPECT_EQ(in_child([] {
              if (!keep_capabilities(capability_set({CAP_CHOWN, CAP_KILL}))) return 1;
              const auto refused = keep_capabilities(capability_set({CAP_KILL}));
              return !refused &&
                             refused.error().message().starts_with("give up the capability chown: ")
                         ? 0
                         : 2;
            }),
            0);
}

}  // namespace
}  // namespace baton::sys
