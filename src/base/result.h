// Errors as values, with a cause a person can act on.
//
// Every fallible function of Baton returns Result<T> (or Status). An Error carries a code that
// callers may branch on and a message that grows outwards as it travels up:
//   "restore job 7: criu: file /x has bad size 30, expected 23"
// Exceptions are for programming errors only.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace baton {

// Only the conditions on which some caller acts. Everything else is Internal.
enum class ErrorCode {
  Internal,
  InvalidArgument,  // the input is wrong; trying again cannot help
  NotFound,
  AlreadyExists,
  FailedPrecondition,  // right request, wrong state (job is not running, node is cordoned)
  StaleGeneration,     // the message speaks of an incarnation that has been superseded
  Unavailable,         // the other side is away; the same call may work later
  NoSpace,             // a disk is full
  Damaged,             // stored data fails verification
  Unfit,               // this node cannot do it; another one might
  Refused,             // CRIU refuses this program; the message says what and how to cure it
  Forbidden,           // the caller may not do this, or is not known
  TimedOut,
  Cancelled,
};

std::string_view to_string(ErrorCode code);

class [[nodiscard]] Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  // An error from errno: "open /x: No such file or directory". ENOSPC and EDQUOT become NoSpace,
  // ENOENT becomes NotFound, EEXIST becomes AlreadyExists.
  static Error from_errno(std::string_view what, int error_number = errno);

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error seen from one level further out.
  Error context(std::string_view what) && {
    message_ = fmt::format("{}: {}", what, message_);
    return std::move(*this);
  }
  Error context(std::string_view what) const& { return Error(*this).context(what); }

 private:
  ErrorCode code_;
  std::string message_;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected(Error(code, std::move(message)));
}
inline std::unexpected<Error> fail(Error error) { return std::unexpected(std::move(error)); }
inline std::unexpected<Error> fail_errno(std::string_view what, int error_number = errno) {
  return std::unexpected(Error::from_errno(what, error_number));
}

#define BATON_CONCAT_INNER(a, b) a##b
#define BATON_CONCAT(a, b) BATON_CONCAT_INNER(a, b)

// BATON_TRY(auto fd, open_file(path)): unwraps a Result or returns its error.
#define BATON_TRY(declaration, expression) \
  BATON_TRY_INNER(BATON_CONCAT(baton_result_, __LINE__), declaration, expression)
#define BATON_TRY_INNER(temporary, declaration, expression)             \
  auto temporary = (expression);                                        \
  if (!temporary) return std::unexpected(std::move(temporary).error()); \
  declaration = std::move(*temporary)

// BATON_CHECK(status_expression): returns the error, if it is one.
#define BATON_CHECK(expression)                                \
  do {                                                         \
    if (auto baton_status = (expression); !baton_status)       \
      return std::unexpected(std::move(baton_status).error()); \
  } while (false)

// As BATON_CHECK, adding context: BATON_CHECK_CTX(sync(fd), "commit checkpoint 3").
#define BATON_CHECK_CTX(expression, what)                                    \
  do {                                                                       \
    if (auto baton_status = (expression); !baton_status)                     \
      return std::unexpected(std::move(baton_status).error().context(what)); \
  } while (false)

}  // namespace baton
