#include "control/output_log.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>

#include "base/fault.h"
#include "sys/file.h"

namespace baton::control {

OutputLog::OutputLog(std::filesystem::path path, Fd fd, std::uint64_t length)
    : path_(std::move(path)), fd_(std::move(fd)), length_(length) {}

void OutputLog::set_writer(Generation generation) {
  std::lock_guard lock(mutex_);
  writer_ = generation;
}

Status OutputLog::roll_back(std::uint64_t length) {
  std::lock_guard lock(mutex_);
  if (length >= length_) return {};
  if (::ftruncate(fd_.get(), static_cast<off_t>(length)) != 0)
    return fail_errno(fmt::format("truncate {}", path_.string()));
  length_ = length;
  durable_ = std::min(durable_, length);
  safe_ = std::min(safe_, length);
  ++roll_backs_;
  changed_.notify_all();
  // The next writer's bytes must not land behind old ones after a power cut.
  return sys::sync_file(fd_.get(), path_);
}

Result<std::uint64_t> OutputLog::append(Generation generation, std::uint64_t offset,
                                        std::string_view data) {
  std::lock_guard lock(mutex_);
  if (generation != writer_)
    return fail(
        ErrorCode::StaleGeneration,
        fmt::format("output of generation {}; generation {} writes now", generation, writer_));
  if (offset > length_ || offset + data.size() <= length_) return length_;
  data.remove_prefix(length_ - offset);
  BATON_CHECK(fault("output.append"));
  if (auto status = sys::pwrite_all(fd_.get(), data, length_); !status) {
    // The file must not be longer than what was acknowledged.
    (void)!::ftruncate(fd_.get(), static_cast<off_t>(length_));
    return fail(status.error().context(path_.string()));
  }
  length_ += data.size();
  changed_.notify_all();
  return length_;
}

Status OutputLog::make_durable(std::uint64_t length) {
  std::uint64_t synced = 0;
  std::uint64_t roll_backs = 0;
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    if (length_ < length)
      return fail(ErrorCode::FailedPrecondition,
                  fmt::format("output has {} bytes, the checkpoint covers {}", length_, length));
    if (durable_ >= length) return {};
    synced = length_;
    roll_backs = roll_backs_;
    first = durable_ == 0;
  }
  if (::fdatasync(fd_.get()) != 0) return fail_errno(fmt::format("fsync {}", path_.string()));
  // Not when the file was made: until here a missing one means no more than an empty one.
  if (first) BATON_CHECK(sys::sync_directory(path_.parent_path()));
  std::lock_guard lock(mutex_);
  // Bytes that replaced others meanwhile are not the ones that were synced.
  if (roll_backs == roll_backs_) durable_ = std::max(durable_, synced);
  return {};
}

void OutputLog::set_safe(std::uint64_t length) {
  std::lock_guard lock(mutex_);
  safe_ = std::max(safe_, length);
  changed_.notify_all();
}

void OutputLog::set_always_safe(bool always_safe) {
  std::lock_guard lock(mutex_);
  always_safe_ = always_safe;
  changed_.notify_all();
}

void OutputLog::set_ended(bool ended) {
  std::lock_guard lock(mutex_);
  ended_ = ended;
  changed_.notify_all();
}

void OutputLog::set_removed() {
  std::lock_guard lock(mutex_);
  removed_ = true;
  changed_.notify_all();
}

std::uint64_t OutputLog::length() const {
  std::lock_guard lock(mutex_);
  return length_;
}

std::uint64_t OutputLog::safe_length_locked() const {
  return ended_ || always_safe_ ? std::max(safe_, length_) : safe_;
}

std::uint64_t OutputLog::safe_length() const {
  std::lock_guard lock(mutex_);
  return std::min(safe_length_locked(), length_);
}

Result<std::string> OutputLog::read_range(std::uint64_t offset, std::uint64_t end) const {
  std::string data(end - offset, '\0');
  if (auto status = sys::pread_all(fd_.get(), data.data(), data.size(), offset); !status)
    return fail(status.error().context(fmt::format("read {}", path_.string())));
  return data;
}

Result<OutputLog::Part> OutputLog::read(std::uint64_t offset, std::size_t max_bytes) const {
  std::lock_guard lock(mutex_);
  Part part{offset, "", ended_};
  if (offset >= length_) return part;
  std::uint64_t end = std::min<std::uint64_t>(length_, offset + max_bytes);
  BATON_TRY(part.data, read_range(offset, end));
  part.ended = ended_ && end == length_;
  return part;
}

Result<OutputLog::Part> OutputLog::follow(std::uint64_t offset, std::size_t max_bytes, bool live,
                                          std::stop_token stop) const {
  std::unique_lock lock(mutex_);
  auto readable = [&] { return live ? length_ : std::min(safe_length_locked(), length_); };
  changed_.wait(lock, stop, [&] {
    return removed_ || ended_ || readable() > offset || (live && length_ < offset);
  });
  if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "cancelled");
  if (removed_) return fail(ErrorCode::NotFound, "the job was removed");
  if (live && length_ < offset) offset = length_;
  Part part{offset, "", false};
  std::uint64_t limit = std::max(readable(), offset);
  std::uint64_t end = std::min<std::uint64_t>(limit, offset + max_bytes);
  if (end > offset) {
    BATON_TRY(part.data, read_range(offset, end));
  }
  part.ended = ended_ && end == limit;
  return part;
}

Result<std::unique_ptr<OutputLogs>> OutputLogs::open(std::filesystem::path folder) {
  BATON_CHECK(sys::make_directories(folder, 0700));
  return std::unique_ptr<OutputLogs>(new OutputLogs(std::move(folder)));
}

Result<std::shared_ptr<OutputLog>> OutputLogs::get(JobId job) {
  {
    std::lock_guard lock(mutex_);
    if (auto found = logs_.find(job); found != logs_.end()) return found->second;
  }
  // Without the lock: nobody who asks for another job's log waits for this disk.
  auto path = folder_ / fmt::format("{}.log", job);
  BATON_TRY(Fd fd, sys::open_file(path, O_RDWR | O_CREAT, 0600));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return fail_errno(fmt::format("stat {}", path.string()));
  auto log =
      std::make_shared<OutputLog>(path, std::move(fd), static_cast<std::uint64_t>(info.st_size));
  std::lock_guard lock(mutex_);
  return logs_.emplace(job, std::move(log)).first->second;  // or whoever was faster
}

Result<std::vector<JobId>> OutputLogs::list() const {
  std::vector<JobId> jobs;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder_, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string stem = entry->path().stem();
    std::uint64_t id = 0;
    auto [rest, bad] = std::from_chars(stem.data(), stem.data() + stem.size(), id);
    if (bad == std::errc() && rest == stem.data() + stem.size()) jobs.emplace_back(id);
  }
  if (error) return fail_errno(fmt::format("read {}", folder_.string()), error.value());
  return jobs;
}

std::uint64_t OutputLogs::size_bytes(JobId job) const {
  std::error_code error;
  const auto size = std::filesystem::file_size(folder_ / fmt::format("{}.log", job), error);
  return error ? 0 : size;
}

Status OutputLogs::remove(JobId job) {
  std::lock_guard lock(mutex_);
  if (auto found = logs_.find(job); found != logs_.end()) {
    found->second->set_removed();
    logs_.erase(found);
  }
  auto path = folder_ / fmt::format("{}.log", job);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", path.string()));
  return {};
}

}  // namespace baton::control
