// Becoming and staying a member of a cluster, seen from outside the controller.
//
// Blocking calls, within some seconds each.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "wire/channel.h"
#include "wire/identity.h"

namespace baton::wire {

// Spends the token and saves what it brought in the identity's folder. `name`: what a node calls
// itself. Unavailable: no controller with the token's authority answers there; the token is
// unspent.
Status join(const std::string& address, const JoinToken& token, const std::string& name,
            const Identity& identity);

// Two thirds of its time are over.
bool is_due(const CertificateFacts& facts, std::int64_t now_s);
// Asks for a new certificate for the same key and puts it in the place of the old one.
Status renew(const std::shared_ptr<grpc::Channel>& channel, const Identity& identity);

}  // namespace baton::wire
