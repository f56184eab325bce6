// One restore into a fresh sandbox. Internal to the engine.
#pragma once

#include <filesystem>
#include <future>
#include <memory>
#include <string>

#include "agent/engine/assemble.h"
#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/engine.h"
#include "agent/engine/lazy_memory.h"
#include "agent/engine/record.h"
#include "criu/session.h"

namespace baton::agent {

// Where the pages of memory lie. Used once.
class ReadAhead {
 public:
  explicit ReadAhead(std::filesystem::path directory)
      : maps_(std::async(std::launch::async,
                         [directory = std::move(directory)] { return read_maps(directory); })) {}
  Result<PageMaps> take_maps() { return maps_.get(); }

 private:
  std::future<Result<PageMaps>> maps_;
};

class RestoreRun {
 public:
  RestoreRun(Sandbox& sandbox, std::filesystem::path directory, const EngineOptions& options)
      : sandbox_(sandbox), directory_(std::move(directory)), options_(options) {}

  // `log_tail` may be null.
  Status run(const RestoreOptions& restore_options, std::string* log_tail);
  // After a good run: memory that is still to come; may be null.
  std::unique_ptr<LazyMemory> take_lazy_memory() { return std::move(lazy_); }

 private:
  Status fill_trees();
  Status make_output();
  Status place_images(const RestoreOptions& restore_options);
  Status limit_capabilities();
  bool wants_lazy(const RestoreOptions& restore_options, const PageMaps& maps) const;
  CriuIpc criu_ipc() const;
  Status launch_criu();
  Status criu_restore(bool preflight, std::string* log_tail);
  void apply_attributes();

  Sandbox& sandbox_;
  const std::filesystem::path directory_;
  const EngineOptions& options_;
  CheckpointRecord record_;
  std::unique_ptr<LazyMemory> lazy_;
  CriuWorker worker_;
};

}  // namespace baton::agent
