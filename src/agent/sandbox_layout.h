// What lies where in an incarnation's directory, and the mounts that make a sandbox of it.
//
//   spec.json        what it was made from            io/output       stdout and stderr
//   control.sock     pid 1 listens here               images/         CRIU's images
//   exit.json        how it ended                     root/           mount point of the new root
//   init.log         what pid 1 had to say            upper, work     the root's overlay
//   criu-stderr.log                                   upper@…, work@… overlays of nested mounts
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "agent/sandbox.h"

namespace baton::agent {

struct OverlayTree {
  std::filesystem::path path;   // inside, "/" for the root
  std::filesystem::path lower;  // on the node
  std::string tree;             // its name in a checkpoint: "upper", "upper@home"
  std::string work;
};

struct SandboxLayout {
  std::vector<OverlayTree> overlays;             // the root first, then outer before inner
  std::vector<std::filesystem::path> read_only;  // inside: mounts that are shown as they are
};

// "/home/a b" -> "upper@home%2Fa%20b", "/" -> "upper".
std::string overlay_tree_name(const std::filesystem::path& path);

// Decides which filesystems the sandbox gets. Unfit: the base can't be used.
Result<SandboxLayout> plan_layout(const SandboxSpec& spec);

// Makes the directories, with the overlays' roots owned and permitted like what they cover.
Status make_layout_directories(const SandboxSpec& spec, const SandboxLayout& layout);

// The (name, folder) pairs of all overlays.
std::vector<std::pair<std::string, std::filesystem::path>> upper_trees(
    const std::filesystem::path& directory, const SandboxLayout& layout);

// Where baton-init and CRIU's shim are: beside this program, or as BATON_INIT says.
Result<std::filesystem::path> find_init_program();
std::filesystem::path find_shim();  // "" when there is none

// The configuration that baton-init executes; see init/protocol.h.
Result<std::string> init_configuration(const SandboxSpec& spec, const SandboxLayout& layout);

}  // namespace baton::agent
