// Who is in the cluster: the authority's key, tokens to join with, and every certificate that was
// given out, in DATA/members.db and DATA/identity/.
//
// A certificate proves a number; whether that number still counts, and what its owner may do, is
// looked up here at every call. So revoking, and another role, take effect at once.
//
// Thread-safe; a lookup takes no disk. Kept apart from state.db: losing either leaves the other.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "control/sqlite.h"
#include "wire/certificate.h"
#include "wire/identity.h"
#include "wire/identity.pb.h"

namespace baton::control {

struct Member {
  wire::PeerKind kind = wire::PeerKind::Node;
  std::string name;
  v1::Role role = v1::ROLE_VIEWER;  // of a user

  bool operator==(const Member&) const = default;
};

class Members {
 public:
  static constexpr std::int64_t kTokenMs = 10 * 60'000;
  static constexpr std::int64_t kLongestTokenMs = 7 * 24 * 3'600'000ll;

  // Makes the authority on first start, and a new certificate for this controller at each.
  //
  // Without members.db (lost, or damaged and moved aside) the authority's own signature is what is
  // left. Certificates from before then count for as long as they could at most be valid: a node is
  // a node, a user is a viewer, whose role nobody knows. Revocations are forgotten, which lost()
  // says; revoking a name anew shuts out all certificates that it had.
  static Result<std::unique_ptr<Members>> open(const std::filesystem::path& data);

  // The controller's own.
  const wire::Identity& identity() const { return identity_; }
  const std::string& authority() const { return authority_.certificate; }
  // Not empty: open() found no readable members.db where there had been one; why, for people.
  const std::string& lost() const { return lost_; }

  // A token's text, which nobody can read from here again. InvalidArgument: name or time.
  Result<v1::Token> create_token(const v1::CreateTokenRequest& request, std::int64_t now_ms);
  // Spends the token and signs. A token for a name takes the place of who had it before. Forbidden:
  // unknown, spent or too old (which of these is not said); AlreadyExists: the name is taken.
  Result<std::string> enroll(const v1::EnrollRequest& request, std::int64_t now_ms);
  // Signs anew for somebody who is in.
  Result<std::string> renew(const Member& member, const std::string& request, std::int64_t now_ms);
  // NotFound. Returns what it was.
  Result<v1::Identity> revoke(wire::PeerKind kind, const std::string& name);
  std::vector<v1::Identity> list() const;

  // Forbidden, with a sentence for the caller, unless the certificate counts now.
  Result<Member> look_up(const wire::PeerName& peer, std::int64_t now_ms);

 private:
  struct Certificate {
    Member member;
    std::int64_t issued_ms = 0;
    std::int64_t expires_ms = 0;
    bool revoked = false;
  };
  using Number = std::uint64_t;

  explicit Members(const std::filesystem::path& data) : identity_(data / "identity") {}
  Result<bool> open_authority();  // whether it was there
  Status open_database(const std::filesystem::path& path);
  Status note_loss();
  Status load();
  bool counts_from_before(const wire::PeerName& peer, std::int64_t now_ms) const;
  Status renew_own_certificate();
  bool is_in(wire::PeerKind kind, const std::string& name) const;
  // All with `writing_` held.
  Result<std::string> issue(const Member& member, const std::string& request, std::int64_t now_ms);
  Result<Member> redeem(const v1::EnrollRequest& request, std::int64_t now_ms);
  Status strike_out(const Member& member);
  std::optional<v1::Identity> view(wire::PeerKind kind, const std::string& name) const;

  const wire::Identity identity_;
  wire::Authority authority_;
  std::mutex writing_;        // taken first; one change at a time, for as long as the disk takes
  mutable std::mutex mutex_;  // to change the map or to look into it, briefly: heartbeats do
  std::unique_ptr<Database> database_;
  std::map<Number, Certificate> certificates_;
  // The last time that members.db was lost: numbers below belong to certificates from before. 0:
  // never.
  Number lost_before_ = 0;
  std::int64_t lost_at_ms_ = 0;
  std::string lost_;
};

wire::PeerKind from_wire(v1::IdentityKind kind);

}  // namespace baton::control
