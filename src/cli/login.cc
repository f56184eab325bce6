#include "cli/login.h"

#include <fstream>

#include "base/clock.h"
#include "cli/terminal.h"
#include "wire/membership.h"

namespace baton::cli {
namespace {

std::filesystem::path address_path(const wire::Identity& identity) {
  return identity.directory() / "controller";
}

}  // namespace

std::string login_address(const wire::Identity& identity) {
  std::string address;
  if (identity.exists()) std::getline(std::ifstream(address_path(identity)), address);
  return address;
}

Status save_login_address(const wire::Identity& identity, const std::string& address) {
  std::ofstream file(address_path(identity));
  file << address << '\n';
  file.close();
  if (file) return {};
  return fail(ErrorCode::Internal,
              fmt::format("{} can't be written", address_path(identity).string()));
}

Result<wire::Dialer> dial(const std::string& address, const wire::Security& security) {
  auto dialer = wire::Dialer::create(address, security);
  if (!dialer) {
    if (dialer.error().code() != ErrorCode::FailedPrecondition) return dialer;
    return fail(ErrorCode::FailedPrecondition,
                dialer.error().message() +
                    "; `baton login` brings one (an administrator makes the token: `baton token "
                    "create --user NAME`)");
  }
  const wire::Identity identity(security.identity);
  BATON_TRY(const std::string target, wire::parse_address(address));
  if (security.insecure || target.starts_with("unix:")) return dialer;
  auto facts = identity.facts();
  if (!facts) return fail(std::move(facts).error());
  const std::int64_t now_s = wall_time_ms() / 1000;
  if (facts->not_after_s <= now_s)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("the certificate in {} is too old; `baton login` brings another",
                            identity.directory().string()));
  if (wire::is_due(*facts, now_s)) {
    // The old one is good for a while: not worth failing a command.
    if (auto renewed = wire::renew(dialer->open(), identity); !renewed)
      print_error(renewed.error().message());
  }
  return dialer;
}

}  // namespace baton::cli
