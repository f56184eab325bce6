// A command's conversation with the controller: calls, interruption, and following streams over a
// restart of the controller.
#pragma once

#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "wire/baton.grpc.pb.h"
#include "wire/identity.grpc.pb.h"
#include "wire/status.h"
#include "wire/text.h"

namespace baton::cli {

// Used by one thread. Ctrl-C ends the process as usual until catch_interrupts() is called.
class Session {
 public:
  // InvalidArgument when the address is none; FailedPrecondition when it takes a certificate and
  // there is none. Connects at the first call; but a certificate that is due is renewed here.
  static Result<Session> open(const Program& program);

  v1::Api::Stub& api() { return *api_; }
  v1::Store::Stub& store() { return *store_; }
  v1::Membership::Stub& membership() { return *membership_; }
  const std::string& address() const { return address_; }

  // From now on Ctrl-C and SIGTERM cancel the call under way instead of ending the process.
  void catch_interrupts() { interrupt_ = std::make_unique<Interrupt>(); }
  bool interrupted() const { return interrupt_ && interrupt_->raised(); }

  // One call that answers at once (within kQuickCallSeconds) or fails.
  template <typename Stub, typename Request, typename Reply>
  Result<Reply> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                     const Request& request) {
    return call_with(method, request, kQuickCallSeconds);
  }
  // One call that may take as long as it does.
  template <typename Stub, typename Request, typename Reply>
  Result<Reply> call_long(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Reply*),
                          const Request& request) {
    return call_with(method, request, 0);
  }

  // One streamed answer of the store, each message handed to `take`; an error of that ends it.
  template <typename Request, typename Part>
  Status stream(std::unique_ptr<grpc::ClientReader<Part>> (v1::Store::Stub::*method)(
                    grpc::ClientContext*, const Request&),
                const Request& request,
                const std::function<Status(const std::type_identity_t<Part>&)>& take) {
    BATON_CHECK(wire::check_text(request));
    Status taken;
    Status ended = one_call(0, [&](grpc::ClientContext& context) {
      auto reader = (store_.get()->*method)(&context, request);
      Part part;
      while (reader->Read(&part)) {
        if (taken) taken = take(part);
        if (!taken) context.TryCancel();
      }
      return reader->Finish();
    });
    return taken ? ended : taken;
  }

  // One call, whatever it is, that may take as long as it does.
  Status long_call(const std::function<grpc::Status(grpc::ClientContext&)>& call) {
    return one_call(0, call);
  }

  // Runs `attempt` with a fresh context until it ends with anything but "the controller is away".
  // For use after a call() that reached the controller, so that a wrong address is an error and
  // not a wait. stderr says once that the controller is away. Cancelled when interrupted.
  Status over_restarts(const std::function<grpc::Status(grpc::ClientContext&)>& attempt);

 private:
  static constexpr int kQuickCallSeconds = 30;

  template <typename Stub, typename Request, typename Reply>
  Result<Reply> call_with(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Reply*),
                          const Request& request, int seconds) {
    Reply reply;
    BATON_CHECK(wire::check_text(request));
    BATON_CHECK(one_call(seconds, [&](grpc::ClientContext& context) {
      if constexpr (std::is_base_of_v<Stub, v1::Api::Stub>)
        return (api_.get()->*method)(&context, request, &reply);
      else if constexpr (std::is_base_of_v<Stub, v1::Membership::Stub>)
        return (membership_.get()->*method)(&context, request, &reply);
      else
        return (store_.get()->*method)(&context, request, &reply);
    }));
    return reply;
  }
  Status one_call(int seconds, const std::function<grpc::Status(grpc::ClientContext&)>& call);
  Error explain(const grpc::Status& status) const;

  std::string address_;
  std::unique_ptr<v1::Api::Stub> api_;
  std::unique_ptr<v1::Store::Stub> store_;
  std::unique_ptr<v1::Membership::Stub> membership_;
  std::unique_ptr<Interrupt> interrupt_;
};

// A subcommand; the first sentence of `help` is for the list of commands, the rest for its own
// --help, where blank lines separate paragraphs.
CLI::App* add_command(Program& program, const char* name, const std::string& help);
// The same below another command: `baton store gc`.
CLI::App* add_command(CLI::App& parent, const char* name, const std::string& help);

// For an option with a whole number from `least` on: "-1" would be taken for the largest else.
CLI::Validator whole_number(std::uint64_t least = 0);

// Opens a session, runs `action`, prints an error as one line, and leaves the exit code in
// `program`; `failure` is that of an error.
void run_command(Program& program, const std::function<Result<int>(Session&)>& action,
                 int failure = kExitFailure);
// run_command() as the behaviour of `command`.
void on(Program& program, CLI::App* command, std::function<Result<int>(Session&)> action);

}  // namespace baton::cli
