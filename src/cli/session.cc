#include "cli/session.h"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>

#include "cli/login.h"
#include "cli/terminal.h"
#include "cli/units.h"
#include "wire/channel.h"

namespace baton::cli {
namespace {

constexpr std::size_t kHelpColumns = 90;
constexpr std::chrono::milliseconds kBetweenAttempts{100};

// A controller that shuts down answers UNAVAILABLE, or its streams end as cancelled; we cancelled
// nothing ourselves.
bool controller_went_away(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::CANCELLED ||
         status.error_code() == grpc::StatusCode::UNAVAILABLE;
}

// gRPC's account of a failed connection, reduced to its cause: "Connection refused".
std::string last_cause(const std::string& message) {
  const auto colon = message.rfind(": ");
  return colon == std::string::npos ? message : message.substr(colon + 2);
}

// Words of one paragraph, filled into lines.
std::string fill(const std::string& paragraph) {
  std::istringstream words(paragraph);
  std::string out;
  std::size_t column = 0;
  for (std::string word; words >> word; column += word.size() + 1) {
    if (column > 0 && column + word.size() > kHelpColumns) {
      out += '\n';
      column = 0;
    }
    out += (column > 0 ? " " : "") + word;
  }
  return out;
}

}  // namespace

Result<Session> Session::open(const Program& program) {
  Session session;
  session.address_ = program.controller_address();
  const wire::Security security{program.identity(), program.insecure()};
  BATON_TRY(const wire::Dialer dialer, dial(session.address_, security));
  const auto channel = dialer.open();
  session.api_ = v1::Api::NewStub(channel);
  session.store_ = v1::Store::NewStub(channel);
  session.membership_ = v1::Membership::NewStub(channel);
  return session;
}

Error Session::explain(const grpc::Status& status) const {
  Error error = wire::from_grpc(status);
  if (error.code() == ErrorCode::Unavailable && status.error_details().empty())
    return Error(ErrorCode::Unavailable,
                 fmt::format("no controller answers at {} ({}). Is `baton up` or `baton "
                             "controller` running? --controller or BATON_CONTROLLER names another",
                             address_, last_cause(error.message())));
  if (error.code() == ErrorCode::TimedOut && status.error_details().empty())
    return Error(ErrorCode::TimedOut,
                 fmt::format("the controller at {} did not answer in time", address_));
  return error;
}

Status Session::one_call(int seconds,
                         const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  grpc::ClientContext context;
  if (seconds > 0)
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  CancelScope scope(interrupt_.get(), context);
  const grpc::Status status = call(context);
  if (interrupted()) return fail(ErrorCode::Cancelled, "interrupted");
  if (!status.ok()) return fail(explain(status));
  return {};
}

Status Session::over_restarts(const std::function<grpc::Status(grpc::ClientContext&)>& attempt) {
  for (bool away = false;; away = true) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    CancelScope scope(interrupt_.get(), context);
    const grpc::Status status = attempt(context);
    if (interrupted()) return fail(ErrorCode::Cancelled, "interrupted");
    if (status.ok()) return {};
    if (!controller_went_away(status)) return fail(explain(status));
    if (!away) print_error("the controller went away; waiting for it to come back");
    std::this_thread::sleep_for(kBetweenAttempts);  // it may refuse for a while, and at once
  }
}

CLI::App* add_command(Program& program, const char* name, const std::string& help) {
  return add_command(program.app(), name, help);
}

CLI::App* add_command(CLI::App& parent, const char* name, const std::string& help) {
  const auto sentence = std::min(help.find(". "), help.size());
  std::string summary = help.substr(0, sentence);
  if (summary.ends_with('.')) summary.pop_back();
  CLI::App* command = parent.add_subcommand(name, summary);
  std::string details;
  for (std::size_t at = sentence + 2; at < help.size();) {
    const auto end = std::min(help.find("\n\n", at), help.size());
    details += (details.empty() ? "" : "\n\n") + fill(help.substr(at, end - at));
    at = end + 2;
  }
  command->footer(details);
  return command;
}

CLI::Validator whole_number(std::uint64_t least) {
  auto check = [least](const std::string& text) -> std::string {
    const auto number = parse_number(text);
    if (!number) return number.error().message();
    return *number < least ? fmt::format("numbers begin at {}", least) : std::string();
  };
  return CLI::Validator(check, "");
}

void run_command(Program& program, const std::function<Result<int>(Session&)>& action,
                 int failure) {
  auto outcome = [&]() -> Result<int> {
    BATON_TRY(Session session, Session::open(program));
    return action(session);
  }();
  if (!outcome) print_error(outcome.error().message());
  program.exit_code() = outcome ? *outcome : failure;
}

void on(Program& program, CLI::App* command, std::function<Result<int>(Session&)> action) {
  command->callback([&program, action = std::move(action)] { run_command(program, action); });
}

}  // namespace baton::cli
