#include "control/store_key.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "sys/file.h"
#include "sys/process.h"

namespace baton::control {
namespace {

using store::Secret;

constexpr std::uint64_t kMaxKeyBytes = 4096;
constexpr std::int64_t kCommandMs = 60'000;

// Text that is overwritten when it goes.
struct SecretText {
  std::string text;
  SecretText() { text.reserve(kMaxKeyBytes + 1); }  // so that it is never moved
  ~SecretText() { store::wipe(text); }
  SecretText(const SecretText&) = delete;
  SecretText& operator=(const SecretText&) = delete;
};

bool is_hex(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return std::isxdigit(c); });
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto begin = text.find_first_not_of(space);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

bool from_hex(std::string_view text, Secret& key) {
  if (text.size() != 2 * Secret::kBytes || !is_hex(text)) return false;
  for (std::size_t i = 0; i < Secret::kBytes; ++i)
    std::from_chars(text.data() + 2 * i, text.data() + 2 * i + 2, key.data()[i], 16);
  return true;
}

bool from_base64(std::string_view text, Secret& key) {
  SecretText padded;
  padded.text = text;
  if (text.size() == 43) padded.text += '=';
  if (padded.text.size() != 44 || padded.text.find('=') != 43) return false;
  unsigned char bytes[33];
  const int size =
      EVP_DecodeBlock(bytes, reinterpret_cast<const unsigned char*>(padded.text.data()), 44);
  if (size == 33) std::copy_n(bytes, Secret::kBytes, key.data());
  std::fill_n(static_cast<volatile unsigned char*>(bytes), sizeof bytes, 0);
  return size == 33;
}

Status read_up_to_limit(int fd, SecretText& into, const std::string& what,
                        std::int64_t deadline_ms) {
  for (;;) {
    pollfd polled{fd, POLLIN, 0};
    const auto left = deadline_ms - boot_time_ms();
    if (left <= 0) return fail(ErrorCode::TimedOut, fmt::format("{}: it takes too long", what));
    if (::poll(&polled, 1, static_cast<int>(left)) <= 0) continue;
    const std::size_t at = into.text.size();
    into.text.resize(kMaxKeyBytes + 1);
    const ssize_t count = ::read(fd, into.text.data() + at, kMaxKeyBytes + 1 - at);
    into.text.resize(at + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return fail_errno(what);
    if (count == 0) return {};
    if (into.text.size() > kMaxKeyBytes)
      return fail(ErrorCode::InvalidArgument, fmt::format("{}: that is more than a key", what));
  }
}

Status check_private(int file, const std::string& name) {
  struct stat info {};
  if (::fstat(file, &info) != 0) return fail_errno(fmt::format("stat {}", name));
  if (info.st_mode & 077)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("the store's key in {} can be read or written by others (mode {:04o}): "
                            "chmod 600 {}, and think of who has seen it",
                            name, info.st_mode & 07777, name));
  if (info.st_uid != 0 && info.st_uid != ::geteuid())
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("the store's key in {} belongs to user {}, who can read it: chown root "
                            "{}",
                            name, info.st_uid, name));
  return {};
}

Result<std::vector<std::string>> words_of(const std::string& command) {
  if (!command.starts_with('[')) return std::vector<std::string>{"/bin/sh", "-c", command};
  const auto list = nlohmann::json::parse(command, nullptr, false);
  const bool words = list.is_array() && !list.empty() &&
                     std::ranges::all_of(list, [](const auto& word) { return word.is_string(); });
  if (!words || !list[0].template get_ref<const std::string&>().starts_with('/'))
    return fail(ErrorCode::InvalidArgument,
                "--store-key-command: a list has to be JSON, of strings, the first an absolute "
                "path: [\"/usr/bin/program\", \"argument\"]");
  return list.template get<std::vector<std::string>>();
}

// What it prints to its standard output. The rest of what it says goes where ours goes.
Status run(const std::string& command, SecretText& output) {
  const std::string what = "the command for the store's key";
  sys::SpawnRequest request;
  BATON_TRY(request.argv, words_of(command));
  request.program = request.argv[0];
  for (char** variable = environ; *variable; ++variable) request.env.push_back(*variable);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  request.fds = {{write_end.get(), STDOUT_FILENO}};
  auto child = sys::spawn(request);
  if (!child) return fail(std::move(child).error().context(what));
  write_end.reset();
  Status read = read_up_to_limit(read_end.get(), output, what, boot_time_ms() + kCommandMs);
  if (!read) (void)child->pidfd.signal(SIGKILL);
  int status = 0;
  while (::waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
  }
  BATON_CHECK(read);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(ErrorCode::FailedPrecondition,
              WIFEXITED(status) ? fmt::format("{} ended with {}", what, WEXITSTATUS(status))
                                : fmt::format("{} was ended by signal {}", what, WTERMSIG(status)));
}

}  // namespace

Result<Secret> parse_store_key(std::string_view text) {
  Secret key;
  // Half a key in digits would pass for a whole one in bytes.
  if (text.size() == Secret::kBytes && !is_hex(text)) {
    std::copy_n(text.data(), Secret::kBytes, key.data());
    return key;
  }
  if (from_hex(trim(text), key) || from_base64(trim(text), key)) return key;
  return fail(
      ErrorCode::InvalidArgument,
      "it is none of 32 bytes, 64 hexadecimal digits and 32 bytes in base64 (one is made by: "
      "head -c 32 /dev/urandom)");
}

Result<Secret> read_store_key(const StoreKeySource& source) {
  SecretText text;
  if (!source.file.empty()) {
    const std::string name = source.file.string();
    auto file = sys::open_file(source.file, O_RDONLY);
    if (!file) return fail(std::move(file).error().context("the store's key"));
    BATON_CHECK(check_private(file->get(), name));
    BATON_CHECK(read_up_to_limit(file->get(), text, name, boot_time_ms() + kCommandMs));
  } else {
    BATON_CHECK(run(source.command, text));
  }
  auto key = parse_store_key(text.text);
  if (!key)
    return fail(key.error().context(source.file.empty()
                                        ? "what the command for the store's key prints"
                                        : source.file.string()));
  return key;
}

Result<std::optional<store::ClusterKeys>> read_store_keys(const StoreKeySource& current,
                                                          const StoreKeySource& old) {
  if (!current.given() && old.given())
    return fail(ErrorCode::InvalidArgument,
                "an old key of the store needs a new one: --store-key-file");
  if (!current.given()) return std::nullopt;
  for (const auto* source : {&current, &old})
    if (!source->file.empty() && !source->command.empty())
      return fail(ErrorCode::InvalidArgument,
                  "the store's key comes from a file or from a command, not from both");
  store::ClusterKeys keys;
  BATON_TRY(keys.current, read_store_key(current));
  if (old.given()) {
    BATON_TRY(keys.old, read_store_key(old));
  }
  return keys;
}

}  // namespace baton::control
