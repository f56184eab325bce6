#include "agent/engine/images_link.h"

#include <unistd.h>

#include <cerrno>

namespace baton::agent {

Result<std::string> link_images(const Sandbox& sandbox) {
  const std::filesystem::path link = sandbox.images_directory() / "here";
  if (::symlink(".", link.c_str()) != 0 && errno != EEXIST)
    return fail_errno(fmt::format("link {}", link.string()));
  return "/.baton/images/here";
}

}  // namespace baton::agent
