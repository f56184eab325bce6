#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "criu/explain.h"
#include "criu/log.h"

namespace baton::criu {
namespace {

using testing::HasSubstr;

struct Case {
  const char* name;
  Operation operation;
  ErrorCode code;
  const char* log;   // as CRIU 4.2.1 wrote it
  const char* says;  // part of what a person is told
};

class Explain : public testing::TestWithParam<Case> {};

TEST_P(Explain, NamesCauseAndCure) {
  auto explanation = explain(GetParam().operation, "", GetParam().log);
  EXPECT_EQ(explanation.code, GetParam().code) << explanation.text;
  EXPECT_THAT(explanation.text, HasSubstr(GetParam().says));
  EXPECT_THAT(explanation.text, testing::Not(testing::ContainsRegex("\\{[0-9]\\}|\n")));
}

constexpr auto dump = Operation::Dump;
constexpr auto restore = Operation::Restore;

const Case cases[] = {
    {"io_uring", dump, ErrorCode::Refused,
     "(00.004812) 23 fdinfo 3: pos: 0 flags: 2000002/0x1\n"
     "(00.004819) Error (criu/files-ext.c:98): Can't dump file 3 of that type [600] (anon "
     "anon_inode:[io_uring])\n"
     "(00.004825) ----------------------------------------\n"
     "(00.004829) Error (criu/cr-dump.c:1681): Dump files (pid: 31) failed with -1\n",
     "innodb_use_native_aio=0"},
    {"userfaultfd", dump, ErrorCode::Refused,
     "(00.1) Error (criu/files-ext.c:98): Can't dump file 3 of that type [600] (anon "
     "anon_inode:[userfaultfd])\n",
     "userfaultfd"},
    {"perf", dump, ErrorCode::Refused,
     "(00.1) Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (anon "
     "anon_inode:[perf_event])\n",
     "profiling"},
    {"other anonymous descriptor", dump, ErrorCode::Refused,
     "(00.1) Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (anon "
     "anon_inode:[newthing])\n",
     "newthing"},
    {"device", dump, ErrorCode::Refused,
     "(00.1) Error (criu/files-ext.c:98): Can't dump file 4 of that type [20666] (chr /dev/fuse)\n",
     "FUSE"},
    {"packet pipe", dump, ErrorCode::Refused,
     "(00.1) Error (criu/pipes.c:490): The packetized mode for pipes is not supported yet\n",
     "SEQPACKET"},
    {"half a connection", dump, ErrorCode::Refused,
     "(00.1) Error (criu/sk-unix.c:881): Can't dump half of stream unix connection. name: (null); "
     "peer "
     "name: /run/dbus/socket\n",
     "/run/dbus/socket"},
    {"nested namespace", dump, ErrorCode::Refused,
     "(00.1) Error (criu/namespaces.c:460): Can't dump nested uts namespace for 12\n",
     "uts namespace"},
    {"large deleted file", dump, ErrorCode::Refused,
     "(00.1) Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/x of 2147483648 size, "
     "increase limit\n",
     "/tmp/x, 2147483648 bytes"},
    {"traced", dump, ErrorCode::Refused,
     "(00.1) Error (compel/src/lib/infect.c:261): Unseizable non-zombie 9 found, state S, err "
     "-1/1\n",
     "detach the tracer"},
    {"old criu, socket option", dump, ErrorCode::Unfit,
     "(00.1) Error (criu/sockets.c:540): Can't get 1:16 opt: Operation not supported\n",
     "provision-criu"},
    {"limits", dump, ErrorCode::Unfit,
     "(00.1) Error (criu/cr-dump.c:411): Can't get rlimit 0: Operation not permitted\n",
     "CAP_SYS_RESOURCE"},
    {"full disk", dump, ErrorCode::NoSpace,
     "(00.1) Error (criu/image.c:1): Can't write pages: No space left on device\n", "full"},
    {"bad size", restore, ErrorCode::Unfit,
     "(00.1)  3: Error (criu/files-reg.c:2175): File usr/lib/libx.so has bad size 30 (expect 23)\n",
     "usr/lib/libx.so is not the file that the job had open: it has 30 bytes here, 23 at the "
     "checkpoint"},
    {"missing file", restore, ErrorCode::NotFound,
     "(00.1)  3: Error (criu/files-reg.c:2300): Can't open file srv/data on restore: No such file "
     "or directory\n",
     "srv/data, which the job had open, is missing"},
    {"pid taken", restore, ErrorCode::Internal,
     "(00.1) Error (criu/cr-restore.c:1230): Can't fork for 17: File exists\n", "pid 17 is taken"},
    {"port taken", restore, ErrorCode::Unfit,
     "(00.1)  3: Error (criu/sk-inet.c:1059): Can't bind inet socket (id 12): Address already in "
     "use\n",
     "listens on is taken"},
    {"no such address", restore, ErrorCode::Unfit,
     "(00.1)  3: Error (criu/sk-inet.c:1059): Can't bind inet socket (id 12): Cannot assign "
     "requested address\n",
     "does not have"},
    {"cause behind a vague first error", dump, ErrorCode::Refused,
     "(00.1) Error (criu/parasite-syscall.c:243): Can't retrieve FDs from socket\n"
     "(00.2) Error (criu/files-ext.c:98): Can't dump file 3 of that type [600] (anon "
     "anon_inode:[io_uring])\n",
     "io_uring"},
    {"unknown", dump, ErrorCode::Internal, "(00.1) Error (criu/x.c:1): Something never seen\n",
     "CRIU: Something never seen"},
    {"silence", dump, ErrorCode::Internal, "", "without a word"},
};

INSTANTIATE_TEST_SUITE_P(Table, Explain, testing::ValuesIn(cases), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

TEST(Log, FirstErrorIsWithoutTimePidAndPlace) {
  EXPECT_EQ(first_error("(00.1) all is well\n(00.2)     31: Error (criu/a.c:1): first: reason\n"
                        "(00.3) Error (criu/b.c:2): second\n"),
            "first: reason");
  EXPECT_EQ(first_error("no errors here\n"), "");
  EXPECT_EQ(first_error(""), "");
}

TEST(Log, ALongLineDoesNotEndTheStack) {
  // Names are the job's to choose.
  const std::string line =
      "(00.1) Error (criu/x.c:1): Can't open file /" + std::string(1 << 20, 'n') + ": No such file";
  EXPECT_FALSE(explain(restore, "", line).text.empty());
  EXPECT_FALSE(explain(dump, line, "").text.empty());
}

TEST(Log, TailStartsAtALine) {
  EXPECT_EQ(tail("one\ntwo\nthree\n", 8), "three\n");
  EXPECT_EQ(tail("short", 100), "short");
}

}  // namespace
}  // namespace baton::criu
