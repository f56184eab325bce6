// Collection of what nobody needs, and figures of what there is.
#pragma once

#include <stop_token>

#include "control/bulk.h"
#include "control/loop.h"

namespace baton::control {

// What lies in the store's directory and belongs to no checkpoint. Uploads and removals under way
// are waited for.
Result<v1::StoreOrphansReply> list_orphans(Loop& loop, Bulk& bulk, std::stop_token stop);

// Applies retention to all jobs and removes what list_orphans() lists, but for what is not Baton's.
// Returns when it is off the disk, except what somebody still reads.
Result<v1::CollectReply> collect(Loop& loop, Bulk& bulk, std::stop_token stop);

v1::StoreStatsReply store_stats(Loop& loop);

}  // namespace baton::control
