#include <gtest/gtest.h>

#include <fcntl.h>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton {
namespace {

bool is_open(int raw) { return ::fcntl(raw, F_GETFD) != -1; }

TEST(Fd, ClosesAtTheEndAndOnMoveOver) {
  int raw = ::open("/dev/null", O_RDONLY);
  int other_raw = ::open("/dev/null", O_RDONLY);
  {
    Fd fd(raw);
    Fd other(other_raw);
    fd = std::move(other);
    EXPECT_FALSE(is_open(raw)) << "what a moved-over Fd held must be closed";
    EXPECT_EQ(fd.get(), other_raw);
    EXPECT_FALSE(other.valid());
  }
  EXPECT_FALSE(is_open(other_raw));
}

Status fails() { return fail_errno("open /x", ENOSPC); }
Result<int> wraps() {
  BATON_CHECK_CTX(fails(), "restore job 7");
  return 1;
}

TEST(Error, GrowsOutwardsAndKeepsItsCode) {
  auto result = wraps();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), ErrorCode::NoSpace);
  EXPECT_EQ(result.error().message(), "restore job 7: open /x: No space left on device");
}

TEST(Ids, AreOrderedAndPrintable) {
  EXPECT_LT(Generation(1), Generation(2));
  EXPECT_EQ(fmt::format("job {} at {}", JobId(7), NodeId("n")), "job 7 at n");
}

}  // namespace
}  // namespace baton
