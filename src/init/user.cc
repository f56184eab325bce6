#include "init/user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cstdint>

namespace baton::init {
namespace {

constexpr std::size_t kMostFields = 7;

struct Line {
  char* fields[kMostFields] = {};
  std::size_t count = 0;
};

void split(char* text, Line* line) {
  line->count = 0;
  text[strcspn(text, "\n")] = 0;
  while (text != nullptr && line->count < kMostFields)
    line->fields[line->count++] = strsep(&text, ":");
}

bool is_number(const char* text, std::uint32_t* value) {
  if (*text < '0' || *text > '9') return false;
  char* end = nullptr;
  errno = 0;
  const unsigned long long parsed = strtoull(text, &end, 10);
  // The largest value means "leave it as it is" to setuid(2) and its kin.
  if (*end != 0 || errno != 0 || parsed >= UINT32_MAX) return false;
  *value = static_cast<std::uint32_t>(parsed);
  return true;
}

// Calls `use` with each line that has at least `fields` fields until it returns true.
template <typename Use>
bool any_line(const char* path, std::size_t fields, Use use) {
  FILE* file = fopen(path, "re");
  if (file == nullptr) return false;
  char* text = nullptr;
  std::size_t size = 0;
  bool found = false;
  while (!found && getline(&text, &size, file) > 0) {
    Line line;
    split(text, &line);
    found = line.count >= fields && use(line);
  }
  free(text);
  fclose(file);
  return found;
}

bool find_user(const char* wanted, bool by_uid, std::uint32_t uid, User* user) {
  return any_line("/etc/passwd", 6, [&](const Line& line) {
    std::uint32_t line_uid = 0, line_gid = 0;
    if (!is_number(line.fields[2], &line_uid) || !is_number(line.fields[3], &line_gid))
      return false;
    if (by_uid ? line_uid != uid : strcmp(line.fields[0], wanted) != 0) return false;
    user->uid = line_uid;
    user->gid = line_gid;
    snprintf(user->name, sizeof user->name, "%s", line.fields[0]);
    snprintf(user->home, sizeof user->home, "%s", line.fields[5]);
    return true;
  });
}

bool find_group(const char* wanted, gid_t* gid) {
  return any_line("/etc/group", 3, [&](const Line& line) {
    return strcmp(line.fields[0], wanted) == 0 && is_number(line.fields[2], gid);
  });
}

void add_group(User* user, gid_t gid) {
  for (std::size_t i = 0; i < user->group_count; ++i)
    if (user->groups[i] == gid) return;
  if (user->group_count < kMostGroups) user->groups[user->group_count++] = gid;
}

void find_supplementary_groups(User* user) {
  any_line("/etc/group", 4, [&](const Line& line) {
    gid_t gid = 0;
    if (!is_number(line.fields[2], &gid)) return false;
    char* members = line.fields[3];
    while (char* member = strsep(&members, ","))
      if (strcmp(member, user->name) == 0) add_group(user, gid);
    return false;
  });
}

}  // namespace

bool resolve_user(const char* spec, User* user, char* problem, std::size_t problem_size) {
  char wanted[256];
  const char* colon = strchrnul(spec, ':');
  const auto length = static_cast<std::size_t>(colon - spec);
  if (length >= sizeof wanted) {
    snprintf(problem, problem_size, "user name is too long");
    return false;
  }
  memcpy(wanted, spec, length);
  wanted[length] = 0;

  std::uint32_t uid = 0;
  const bool by_uid = length == 0 || is_number(wanted, &uid);
  if (!find_user(wanted, by_uid, uid, user)) {
    if (!by_uid) {
      snprintf(problem, problem_size, "no such user in the sandbox: %s", wanted);
      return false;
    }
    user->uid = user->gid = uid;
    if (length > 0) snprintf(user->name, sizeof user->name, "%s", wanted);
  }
  find_supplementary_groups(user);
  if (*colon == ':') {
    const char* group = colon + 1;
    if (!is_number(group, &user->gid) && !find_group(group, &user->gid)) {
      snprintf(problem, problem_size, "no such group in the sandbox: %s", group);
      return false;
    }
  }
  add_group(user, user->gid);
  return true;
}

}  // namespace baton::init
