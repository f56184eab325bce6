// Where a job may run, and why not elsewhere. A pure function of what is known.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"

namespace baton::core {

// A node as placement sees it.
struct Candidate {
  NodeFacts facts;
  NodeSample sample;
  NodeState state = NodeState::Up;
  bool cordoned = false;
  bool draining = false;
  bool overloaded = false;  // above a threshold for its time and not below the clear mark yet
  std::uint32_t job_count = 0;
};

// How much a move is worth, hence which nodes are good enough.
enum class Urgency {
  Relief,  // the job could stay: only a node that stays below the clear mark and the threshold
  Normal,  // a start, a drain, a user's wish: a node that is neither overloaded nor about to fail
  Rescue,  // the job runs nowhere, or soon won't: an overloaded node is better than none
  Named,   // a user named the node: only what makes it impossible counts
};

struct PlacementRequest {
  JobNeeds needs;  // wanted_node is not looked at; see `only`
  Urgency urgency = Urgency::Normal;
  NodeId only;                             // empty: any
  NodeId preferred;                        // wins among those that are equally suitable
  std::map<NodeId, std::string> excluded;  // and why ("it is there already")
  // What a restore needs of the node; absent: a start from scratch.
  bool restoring = false;
  std::string criu_version;  // of the dumper; empty: unknown
  CpuFeatures cpu_features;  // of the dumping host
  double share_cores = 0;    // what the job will use there, as far as known
  Policy policy;             // the job's
  bool tell_others = false;  // fill in Placement::others
};

struct Placement {
  std::optional<NodeId> node;
  std::vector<std::string> rejected;  // "node-1 is cordoned", by name
  std::string why;                    // of the chosen one: "keeps its newest checkpoint ready; …"
  // If asked for, those that would do as well, best first: "node-3 (CPU 12 %, 2 jobs)".
  std::vector<std::string> others;
  // "no node can take it: node-1 is cordoned; node-2 is overloaded (97 %)"
  std::string why_none() const;
};

// Among those that fit: not overloaded, then the preferred, then least utilization (to the whole
// per cent), then fewest jobs, then the name.
Placement place(const PlacementRequest& request, const std::vector<Candidate>& candidates);

// Dotted numbers, compared number by number ("4.10" > "4.2.1"); what is not a number ends a part.
int compare_versions(std::string_view a, std::string_view b);

// "97 %".
std::string percent(double fraction);

}  // namespace baton::core
