// A checkpoint's directory over the wire, in both directions. See ControllerLink for the contract.
// Without a throttle it goes as fast as it can.
#pragma once

#include "agent/controller_link.h"
#include "agent/throttle.h"

namespace baton::agent {

Result<UploadResult> upload_checkpoint(pb::Cluster::Stub& stub, const pb::UploadHeader& header,
                                       const std::filesystem::path& directory,
                                       const std::atomic<bool>& superseded,
                                       const std::function<Status()>& confirm, CancelToken& cancel,
                                       Throttle* throttle);

Result<ControllerLink::Download> download_checkpoint(
    pb::Cluster::Stub& stub, const pb::DownloadRequest& request,
    const std::filesystem::path& directory, const std::filesystem::path& reuse,
    const std::function<bool(const pb::Checkpoint&)>& have_it, CancelToken& cancel,
    Throttle* throttle);

}  // namespace baton::agent
