// Makes and finds sandboxes; a seam for tests, which put fakes here.
#pragma once

#include <filesystem>
#include <memory>

#include "agent/sandbox.h"

namespace baton::agent {

class SandboxFactory {
 public:
  virtual ~SandboxFactory() = default;
  virtual Result<std::unique_ptr<Sandbox>> create(const SandboxSpec& spec) = 0;
  virtual Result<std::unique_ptr<Sandbox>> adopt(const std::filesystem::path& directory) = 0;
  virtual Result<SandboxExit> read_exit(const std::filesystem::path& directory) = 0;
  virtual Status remove(const std::filesystem::path& directory) = 0;
};

class RealSandboxFactory : public SandboxFactory {
 public:
  Result<std::unique_ptr<Sandbox>> create(const SandboxSpec& spec) override {
    return Sandbox::create(spec);
  }
  Result<std::unique_ptr<Sandbox>> adopt(const std::filesystem::path& directory) override {
    return Sandbox::adopt(directory);
  }
  Result<SandboxExit> read_exit(const std::filesystem::path& directory) override {
    return Sandbox::read_exit(directory);
  }
  Status remove(const std::filesystem::path& directory) override {
    return Sandbox::remove(directory);
  }
};

}  // namespace baton::agent
