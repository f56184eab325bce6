// The name under which CRIU is told of a sandbox's images directory.
#pragma once

#include <string>

#include "agent/sandbox.h"
#include "base/result.h"

namespace baton::agent {

// Makes a symbolic link to the images directory within itself, and returns its path inside; see
// criu::SessionOptions::images_dir for why.
Result<std::string> link_images(const Sandbox& sandbox);

}  // namespace baton::agent
