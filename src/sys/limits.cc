#include "sys/limits.h"

#include <sys/resource.h>

namespace baton::sys {

Status allow_many_descriptors() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno("read the limit of open files");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno("raise the limit of open files");
  return {};
}

}  // namespace baton::sys
