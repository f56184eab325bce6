// From a job's spec, as the wire has it, to what a sandbox is made from.
#pragma once

#include "agent/context.h"
#include "agent/sandbox.h"

namespace baton::agent {

SandboxSpec sandbox_spec(const NodeContext& node, const pb::JobSpec& spec, JobId job,
                         Generation generation, const std::filesystem::path& directory);
// What a checkpoint asks of the sandbox that it is to be restored into.
void apply_plan(const RestorePlan& plan, SandboxSpec& spec);
// Unfit: it asks for capabilities that this node does not have.
Result<CommandSpec> command_spec(const pb::JobSpec& spec);

}  // namespace baton::agent
