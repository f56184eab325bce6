// A user's place in a cluster, as the command line keeps it: an identity's folder (wire/identity.h)
// and in it the address of the controller.
#pragma once

#include <string>

#include "base/result.h"
#include "wire/channel.h"

namespace baton::cli {

// Where `baton login` found the controller; empty: nowhere.
std::string login_address(const wire::Identity& identity);
Status save_login_address(const wire::Identity& identity, const std::string& address);

// As wire::Dialer::create; renews a certificate that is due, if the controller answers. Its errors
// say what a person can do.
Result<wire::Dialer> dial(const std::string& address, const wire::Security& security);

}  // namespace baton::cli
