#include "agent/transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/fault.h"
#include "store/hash.h"
#include "sys/file.h"
#include "wire/file_parts.h"
#include "wire/status.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Regular files below `directory`, by relative path, in an order that does not depend on the disk.
Result<std::vector<store::StoredFile>> list_files(const fs::path& directory) {
  std::vector<store::StoredFile> files;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!entry->is_regular_file() || entry->is_symlink()) continue;
    struct stat info {};
    if (::lstat(entry->path().c_str(), &info) != 0) return fail_errno(entry->path().string());
    store::StoredFile file;
    file.path = entry->path().lexically_relative(directory);
    file.size = static_cast<std::uint64_t>(info.st_size);
    file.mode = info.st_mode & 07777;
    files.push_back(std::move(file));
  }
  if (error) return fail_errno(fmt::format("list {}", directory.string()), error.value());
  std::ranges::sort(files, {}, &store::StoredFile::path);
  return files;
}

class Uploader {
 public:
  Uploader(pb::Cluster::Stub& stub, const fs::path& directory, const std::atomic<bool>& superseded,
           const std::function<Status()>& confirm, CancelToken& cancel, Throttle* throttle)
      : stub_(stub),
        directory_(directory),
        superseded_(superseded),
        confirm_(confirm),
        cancel_(cancel),
        throttle_(throttle) {}

  Result<UploadResult> run(const pb::UploadHeader& header) {
    UploadResult result;
    BATON_TRY(result.files, list_files(directory_));
    BATON_CHECK(ask_missing(header.job_id(), result.files));
    CancellableCall guard(cancel_, context_);
    pb::UploadReply reply;
    stream_ = stub_.UploadCheckpoint(&context_, &reply);
    Status sent = send(header, result.files);
    // A broken connection may carry the controller's own reason, which cancelling would hide.
    if (!sent && sent.error().code() != ErrorCode::Unavailable) context_.TryCancel();
    stream_->WritesDone();
    const grpc::Status ended = stream_->Finish();
    BATON_CHECK(confirmed_);
    if (!sent && sent.error().code() != ErrorCode::Unavailable) return fail(sent.error());
    BATON_CHECK(wire::check(ended));
    if (!sent) return fail(sent.error());
    result.number = CheckpointNumber(reply.number());
    return result;
  }

 private:
  Status ask_missing(std::uint64_t job, const std::vector<store::StoredFile>& files) {
    pb::HasSharedFilesRequest request;
    request.set_job_id(job);
    for (const auto& file : files)
      if (auto hash = store::shared_file_hash(file.path); !hash.empty())
        request.add_xxh3_128(std::string(hash));
    if (request.xxh3_128_size() == 0) return {};
    grpc::ClientContext context;
    CancellableCall guard(cancel_, context);
    pb::HasSharedFilesReply reply;
    BATON_CHECK(wire::check(stub_.HasSharedFiles(&context, request, &reply)));
    in_store_.insert(request.xxh3_128().begin(), request.xxh3_128().end());
    for (const auto& hash : reply.missing()) in_store_.erase(hash);
    return {};
  }

  Status send(const pb::UploadHeader& header, std::vector<store::StoredFile>& files) {
    pb::UploadPart first;
    *first.mutable_header() = header;
    BATON_CHECK(write(first));
    for (auto& file : files) BATON_CHECK(send_file(file));
    BATON_CHECK(parts_.flush());
    if (confirm_) BATON_CHECK(confirmed_ = confirm_());
    BATON_CHECK(fault("agent.upload.before_commit"));
    pb::UploadPart done;
    done.set_done(true);
    return write(done);
  }

  Status send_file(store::StoredFile& file) {
    auto begin = [&](pb::FilePart& part) {
      part.set_path(file.path);
      part.set_size(file.size);
      part.set_mode(file.mode);
    };
    const std::string hash(store::shared_file_hash(file.path));
    if (in_store_.contains(hash)) {
      BATON_TRY(pb::FilePart* const part, parts_.next(0));
      begin(*part);
      file.xxh3_128 = hash;
      part->set_xxh3_128(hash);
      part->set_in_store(true);
      part->set_last(true);
      return {};
    }
    BATON_TRY(Fd fd, sys::open_file(directory_ / file.path, O_RDONLY));
    store::Hasher hasher;
    std::uint64_t left = file.size;
    do {
      const auto size = std::min<std::uint64_t>(left, wire::kChunkBytes);
      BATON_TRY(pb::FilePart* const part, parts_.next(size));
      if (left == file.size) begin(*part);
      std::string& data = *part->mutable_data();
      data.resize(size);
      BATON_CHECK_CTX(sys::pread_all(fd.get(), data.data(), data.size(), file.size - left),
                      (directory_ / file.path).string());
      hasher.update(data);
      left -= data.size();
      if (left == 0) {
        file.xxh3_128 = hasher.hex();
        part->set_xxh3_128(file.xxh3_128);
        part->set_last(true);
      }
      if (throttle_) throttle_->pass(data.size(), superseded_, cancel_);
    } while (left > 0);
    return {};
  }

  Status write(const pb::UploadPart& part) {
    if (superseded_) return fail(ErrorCode::Cancelled, "a newer checkpoint takes its place");
    // Done once it was handed on, not once it is on its way: the next one is made meanwhile.
    const auto options =
        part.done() ? grpc::WriteOptions() : grpc::WriteOptions().set_buffer_hint();
    if (!stream_->Write(part, options)) return fail(ErrorCode::Unavailable, "the connection broke");
    return {};
  }

  pb::Cluster::Stub& stub_;
  const fs::path& directory_;
  const std::atomic<bool>& superseded_;
  const std::function<Status()>& confirm_;
  CancelToken& cancel_;
  Throttle* const throttle_;
  Status confirmed_;
  std::set<std::string> in_store_;
  wire::FileParts<pb::UploadPart> parts_{[this](const auto& message) { return write(message); }};
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientWriter<pb::UploadPart>> stream_;
};

class Downloader {
 public:
  Downloader(const fs::path& directory, const fs::path& reuse)
      : directory_(directory), reuse_(reuse) {}

  Status begin() {
    BATON_CHECK(sys::remove_tree(directory_));
    return sys::make_directories(directory_, 0700);
  }

  Status take(const pb::FilePart& part) {
    if (part.in_store()) return reuse(part);
    if (!part.path().empty()) BATON_CHECK(open(part));
    if (!file_.valid()) return fail(ErrorCode::Damaged, "bytes without a file");
    BATON_CHECK_CTX(sys::write_all(file_.get(), part.data()), current_.path);
    writeback_.written(file_.get(), part.data().size());
    hasher_.update(part.data());
    bytes_ += part.data().size();
    written_ += part.data().size();
    if (!part.last()) return {};
    current_.xxh3_128 = hasher_.hex();
    if (written_ != current_.size || current_.xxh3_128 != part.xxh3_128())
      return fail(ErrorCode::Damaged,
                  fmt::format("{}: came with other bytes than announced", current_.path));
    files_.push_back(current_);
    file_.reset();
    return {};
  }

  bool complete() const { return !file_.valid(); }
  std::vector<store::StoredFile> files() { return std::move(files_); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  Status open(const pb::FilePart& part) {
    if (file_.valid()) return fail(ErrorCode::Damaged, fmt::format("{}: cut off", current_.path));
    BATON_CHECK(store::check_path(part.path()));
    current_ = {part.path(), part.size(), part.mode(), ""};
    const fs::path path = directory_ / part.path();
    BATON_CHECK(sys::make_directories(path.parent_path(), 0700));
    BATON_TRY(file_, sys::open_file(path, O_WRONLY | O_CREAT | O_EXCL, part.mode() & 0777));
    hasher_.reset();
    written_ = 0;
    writeback_ = {};
    return {};
  }

  // Announced without bytes because we said that we have it.
  Status reuse(const pb::FilePart& part) {
    if (file_.valid()) return fail(ErrorCode::Damaged, fmt::format("{}: cut off", current_.path));
    BATON_CHECK(store::check_path(part.path()));
    const fs::path path = directory_ / part.path();
    BATON_CHECK(sys::make_directories(path.parent_path(), 0700));
    if (::link((reuse_ / part.path()).c_str(), path.c_str()) != 0)
      return fail_errno(fmt::format("link {}", path.string()));
    files_.push_back({part.path(), part.size(), part.mode(), part.xxh3_128()});
    return {};
  }

  const fs::path& directory_;
  const fs::path& reuse_;
  std::vector<store::StoredFile> files_;
  store::StoredFile current_;
  Fd file_;
  store::Hasher hasher_;
  sys::EarlyWriteback writeback_;
  std::uint64_t written_ = 0;
  std::uint64_t bytes_ = 0;  // of all files
};

}  // namespace

Result<UploadResult> upload_checkpoint(pb::Cluster::Stub& stub, const pb::UploadHeader& header,
                                       const fs::path& directory,
                                       const std::atomic<bool>& superseded,
                                       const std::function<Status()>& confirm, CancelToken& cancel,
                                       Throttle* throttle) {
  return Uploader(stub, directory, superseded, confirm, cancel, throttle).run(header);
}

Result<ControllerLink::Download> download_checkpoint(
    pb::Cluster::Stub& stub, const pb::DownloadRequest& request, const fs::path& directory,
    const fs::path& reuse, const std::function<bool(const pb::Checkpoint&)>& have_it,
    CancelToken& cancel, Throttle* throttle) {
  ControllerLink::Download result;
  const std::atomic<bool> never = false;
  Downloader files(directory, reuse);
  grpc::ClientContext context;
  CancellableCall guard(cancel, context);
  auto stream = stub.DownloadCheckpoint(&context, request);
  pb::DownloadPart part;
  Status status;
  bool done = false;
  while (status && !done && stream->Read(&part)) {
    if (part.has_info()) {
      result.info = part.info();
      if (have_it(result.info)) {
        context.TryCancel();
        stream->Finish();
        return result;
      }
      status = files.begin();
    } else if (part.has_files()) {
      for (const pb::FilePart& file : part.files().parts()) {
        status = fault("agent.download.part");
        if (status) status = files.take(file);
        if (!status) break;
        // What is not read yet keeps the other side from sending more.
        if (throttle) throttle->pass(file.data().size(), never, cancel);
      }
    } else {
      done = part.done();
    }
  }
  if (!status) context.TryCancel();
  // Reads on to the end, so that Finish() does not wait for messages nobody takes.
  while (stream->Read(&part)) {
  }
  const grpc::Status ended = stream->Finish();
  if (status && !ended.ok()) status = wire::check(ended);
  if (status && (!done || !files.complete()))
    status = fail(ErrorCode::Damaged, "the checkpoint came incomplete");
  if (!status) {
    (void)sys::remove_tree(directory);
    return fail(std::move(status).error());
  }
  result.files = files.files();
  result.bytes = files.bytes();
  result.fetched = true;
  return result;
}

}  // namespace baton::agent
