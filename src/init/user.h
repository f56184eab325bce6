// Users and groups of the sandbox, read from its own /etc/passwd and /etc/group. A static program
// can't use the C library's lookups: they load the node's name services.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace baton::init {

constexpr std::size_t kMostGroups = 1024;

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  char name[256] = "root";
  char home[1024] = "/";
  gid_t groups[kMostGroups] = {};
  std::size_t group_count = 0;
};

// `spec`: "", "name", "uid", each but the first with an optional ":group" or ":gid". "" is root.
// Numbers need no entry in the files. False: `problem` says why.
bool resolve_user(const char* spec, User* user, char* problem, std::size_t problem_size);

}  // namespace baton::init
