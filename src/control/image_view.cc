#include "control/image_view.h"

#include "control/checkpoint_memory.h"
#include "criu/process_images.h"
#include "store/reader.h"
#include "wire/text.h"

namespace baton::control {
namespace {

constexpr int kMaxProcesses = 256;
constexpr std::size_t kMaxThreads = 1'024;
// Of all processes together, so that the answer stays a message.
constexpr std::size_t kMaxLines = 8'000;
constexpr std::uint64_t kMaxEnvironmentBytes = 256 << 10;
constexpr std::size_t kMaxTextBytes = 256;

std::string shown(std::string_view text) {
  return wire::valid_utf8(text.substr(0, std::min(text.size(), kMaxTextBytes)));
}

class View {
 public:
  View(const sys::OpenSource& checkpoint, bool show_env, v1::CheckpointImage& image)
      : checkpoint_(checkpoint), show_env_(show_env), image_(image) {}

  Status add(const criu::ProcessImage& process) {
    if (image_.processes_size() >= kMaxProcesses) {
      image_.set_left_out(image_.left_out() + 1);
      return {};
    }
    auto& view = *image_.add_processes();
    view.set_pid(static_cast<std::uint32_t>(process.pid));
    view.set_parent(static_cast<std::uint32_t>(process.parent));
    view.set_command(shown(process.command));
    for (pid_t thread : process.threads)
      if (static_cast<std::size_t>(view.threads_size()) < kMaxThreads)
        view.add_threads(static_cast<std::uint32_t>(thread));
    BATON_TRY(auto memory,
              CheckpointMemory::open(checkpoint_, static_cast<std::uint32_t>(process.pid)));
    view.set_memory_bytes(memory.bytes());
    BATON_CHECK(add_environment(process, memory, view));
    for (const auto& descriptor : process.descriptors) {
      if (!has_room(view)) continue;
      auto& line = *view.add_descriptors();
      line.set_fd(descriptor.fd);
      line.set_kind(descriptor.kind);
      line.set_what(shown(descriptor.what));
    }
    for (const auto& mapping : process.mappings) {
      if (!has_room(view)) continue;
      auto& line = *view.add_mappings();
      line.set_start(mapping.start);
      line.set_end(mapping.end);
      line.set_access(mapping.access);
      line.set_what(shown(mapping.what));
    }
    return {};
  }

 private:
  bool has_room(v1::ImageProcess& view) {
    if (lines_ < kMaxLines) return ++lines_;
    view.set_left_out(view.left_out() + 1);
    return false;
  }

  // As it was when the program began, or as it has overwritten it since.
  Status add_environment(const criu::ProcessImage& process, CheckpointMemory& memory,
                         v1::ImageProcess& view) {
    if (process.environment_end <= process.environment_start) return {};
    const std::uint64_t end =
        std::min(process.environment_end, process.environment_start + kMaxEnvironmentBytes);
    BATON_TRY(const std::string bytes, memory.read(process.environment_start, end));
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t stop = std::min(bytes.find('\0', at), bytes.size());
      const std::string_view word = std::string_view(bytes).substr(at, stop - at);
      at = stop + 1;
      const auto equals = word.find('=');
      // Without a name there is no telling what it is.
      if (equals == std::string_view::npos || equals == 0 || !has_room(view)) continue;
      auto& variable = *view.add_environment();
      variable.set_name(shown(word.substr(0, equals)));
      if (show_env_) variable.set_value(shown(word.substr(equals + 1)));
    }
    return {};
  }

  const sys::OpenSource& checkpoint_;
  const bool show_env_;
  v1::CheckpointImage& image_;
  std::size_t lines_ = 0;
};

}  // namespace

Result<v1::CheckpointImage> view_checkpoint(ServiceContext& context,
                                            const v1::InspectRequest& request) {
  v1::CheckpointImage image;
  BATON_TRY(auto key, context.loop.with_lock([&](Loop::Locked& l) {
    auto found = l.state.find_checkpoint(request.checkpoint());
    if (found)
      *image.mutable_info() = l.state.checkpoint_view(
          found->first, l.state.jobs.at(found->first).checkpoints.at(found->second));
    return found;
  }));
  auto& checkpoints = context.loop.stores().checkpoints;
  BATON_TRY(auto held, checkpoints.open_reader(key.first, key.second));
  const auto sources = held->sources();
  BATON_TRY(auto processes, criu::read_processes(sys::sources_below(sources, "images/")));
  View view(sources, request.show_env(), image);
  for (const auto& process : processes) BATON_CHECK(view.add(process));
  return image;
}

}  // namespace baton::control
