// Checkpoints that leave for another cluster, and those that come from one. store/
// checkpoint_archive.h has the members, docs/store-format.md the whole.
#pragma once

#include <stop_token>

#include "control/bulk.h"
#include "control/service_context.h"
#include "store/checkpoint_archive.h"

namespace baton::control {

// Writes the checkpoint, the job's spec and the output up to it. Damaged: some of it can't be read;
// what has been written is to be thrown away.
Status export_checkpoint(ServiceContext& context, const v1::CheckpointRef& ref,
                         const store::ArchiveWriter::Sink& sink);

// Takes an archive, which may be anybody's, and makes a job of it that is stopped at its
// checkpoint. Nothing of it is visible before all of it
// has been compared with its hashes and is durable; on an error nothing is left.
struct NewJob {
  std::string name;   // empty: the one in the archive
  std::string owner;  // empty: nobody's
};
Result<JobId> import_checkpoint(ServiceContext& context, Bulk& bulk, const NewJob& wanted,
                                store::ArchiveReader::Source source, std::stop_token stop);

}  // namespace baton::control
