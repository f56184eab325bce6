#include "agent/fetch.h"

#include "sys/file.h"

namespace baton::agent {

Result<Fetched> fetch_checkpoint(NodeContext& node, const FetchRequest& request,
                                 CancelToken& cancel) {
  const std::int64_t began_ns = node.now_ns();
  Fetched fetched;
  fetched.copy = node.copies.find(request.job);
  pb::DownloadRequest wanted;
  wanted.set_node(node.node);
  wanted.set_job_id(request.job.value);
  wanted.set_generation(request.generation.value);
  wanted.set_checkpoint(request.number.value);
  std::set<std::string> whole;
  if (fetched.copy) whole = fetched.copy->whole_shared_files();
  wanted.mutable_have_xxh3_128()->Assign(whole.begin(), whole.end());
  Status accepted;
  auto have_it = [&](const pb::Checkpoint& info) {
    if (fetched.copy && same_checkpoint(fetched.copy->info(), info) && fetched.copy->verify(whole))
      return true;
    if (request.accept) accepted = request.accept(info);
    return !accepted;  // then nothing more is wanted
  };
  auto download = node.controller.download(
      wanted, request.directory, fetched.copy ? fetched.copy->directory() : std::filesystem::path(),
      have_it, cancel);
  BATON_CHECK(accepted);
  if (!download)
    return fail(std::move(download).error().context(
        fmt::format("fetch checkpoint {} of job {}", request.number, request.job)));
  if (download->fetched) {
    auto kept = request.keep(*download);
    if (!kept) {
      (void)sys::remove_tree(request.directory);
      return fail(std::move(kept).error());
    }
    fetched.superseded = std::exchange(fetched.copy, std::move(*kept));
    fetched.bytes = download->bytes;
  }
  fetched.ms = static_cast<double>(node.now_ns() - began_ns) / 1e6;
  return fetched;
}

}  // namespace baton::agent
