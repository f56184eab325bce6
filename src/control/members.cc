#include "control/members.h"

#include <unistd.h>

#include "base/clock.h"
#include "control/validate.h"
#include "sys/file.h"

namespace baton::control {
namespace {

using std::chrono::hours;
using wire::PeerKind;

constexpr hours kAuthorityLife{24 * 365 * 20};
constexpr hours kControllerLife{24 * 365 * 2};
constexpr hours kMemberLife{24 * 30};
constexpr std::int64_t kMemberLifeMs = std::chrono::milliseconds(kMemberLife).count();
constexpr int kSchema = 1;

constexpr const char* kSchemaSql = R"(
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY,
  kind INTEGER NOT NULL,
  name TEXT NOT NULL,
  role INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE certificates (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  kind INTEGER NOT NULL,
  name TEXT NOT NULL,
  role INTEGER NOT NULL,
  issued_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  revoked INTEGER NOT NULL);
)";

std::int64_t number_of(PeerKind kind) { return static_cast<std::int64_t>(kind); }

Status create_schema(Database& database) {
  // Also in a database of an earlier version.
  BATON_CHECK(database.execute(
      "CREATE TABLE IF NOT EXISTS lost (before INTEGER NOT NULL, at_ms INTEGER NOT NULL)"));
  BATON_TRY(auto query, Statement::prepare(database, "PRAGMA user_version"));
  BATON_TRY(bool row, query.step());
  const std::int64_t version = row ? query.integer(0) : 0;
  BATON_TRY(row, query.step());
  if (version == kSchema) return {};
  if (version != 0)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("it has schema {}, this version of baton knows {}", version, kSchema));
  BATON_TRY(auto transaction, Transaction::begin(database));
  BATON_CHECK(database.execute(kSchemaSql));
  BATON_CHECK(database.execute(fmt::format("PRAGMA user_version = {}", kSchema)));
  return transaction.commit();
}

std::string cluster_name() {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return fmt::format("Baton cluster of {}", host);
}

}  // namespace

PeerKind from_wire(v1::IdentityKind kind) {
  return kind == v1::IDENTITY_NODE ? PeerKind::Node : PeerKind::User;
}

Result<std::unique_ptr<Members>> Members::open(const std::filesystem::path& data) {
  std::unique_ptr<Members> members(new Members(data));
  auto had_authority = members->open_authority();
  if (!had_authority)
    return fail(std::move(had_authority).error().context("certificate authority"));
  const auto path = data / "members.db";
  std::error_code error;
  const bool empty = std::filesystem::file_size(path, error) == 0 || error;
  auto opened = members->open_database(path);
  if (!opened && opened.error().code() == ErrorCode::Damaged) {
    members->database_.reset();
    BATON_TRY(const std::string aside, Database::move_aside(path));
    members->lost_ = fmt::format("{}; the file is {} now", opened.error().message(), aside);
    opened = members->open_database(path);
  } else if (*had_authority && empty) {
    members->lost_ = "members.db was missing or empty";
  }
  BATON_CHECK(std::move(opened));
  if (!members->lost_.empty()) BATON_CHECK_CTX(members->note_loss(), path.string());
  BATON_CHECK_CTX(members->renew_own_certificate(), "the controller's certificate");
  return members;
}

Status Members::open_database(const std::filesystem::path& path) {
  BATON_TRY(database_, Database::open(path));
  BATON_CHECK_CTX(create_schema(*database_), path.string());
  BATON_CHECK_CTX(database_->check(), path.string());
  BATON_CHECK_CTX(load(), path.string());
  return {};
}

// New certificates get numbers that no old one can have: there is less than one in a second.
Status Members::note_loss() {
  lost_at_ms_ = wall_time_ms();
  lost_before_ = static_cast<Number>(lost_at_ms_ / 1'000);
  BATON_TRY(auto transaction, Transaction::begin(*database_));
  BATON_TRY(auto note, Statement::prepare(*database_, "INSERT INTO lost VALUES(?, ?)"));
  BATON_CHECK(note.bind(1, lost_before_).bind(2, lost_at_ms_).run());
  BATON_TRY(auto skip, Statement::prepare(*database_,
                                          "INSERT INTO sqlite_sequence VALUES('certificates', ?)"));
  BATON_CHECK(skip.bind(1, lost_before_).run());
  return transaction.commit();
}

// The key comes first: an authority whose certificate is there is complete.
Result<bool> Members::open_authority() {
  const auto key_path = identity_.directory() / "ca-key.pem";
  BATON_CHECK(sys::make_directories(identity_.directory(), 0700));
  auto certificate = sys::read_file(identity_.authority_path());
  if (certificate) {
    authority_.certificate = std::move(*certificate);
    BATON_TRY(authority_.key, sys::read_file(key_path));
    return true;
  }
  if (certificate.error().code() != ErrorCode::NotFound)
    return fail(std::move(certificate).error());
  BATON_TRY(authority_, wire::make_authority(cluster_name(), kAuthorityLife));
  BATON_CHECK(sys::write_file_durable(key_path, authority_.key, 0600));
  BATON_CHECK(sys::write_file_durable(identity_.authority_path(), authority_.certificate));
  return false;
}

Status Members::load() {
  BATON_TRY(auto lost, Statement::prepare(*database_,
                                          "SELECT before, at_ms FROM lost ORDER BY before DESC "
                                          "LIMIT 1"));
  BATON_TRY(const bool was_lost, lost.step());
  if (was_lost) {
    lost_before_ = lost.number(0);
    lost_at_ms_ = lost.integer(1);
  }
  BATON_TRY(auto query, Statement::prepare(*database_,
                                           "SELECT number, kind, name, role, issued_ms, "
                                           "expires_ms, revoked FROM certificates"));
  for (;;) {
    BATON_TRY(bool row, query.step());
    if (!row) return {};
    Certificate& entry = certificates_[query.number(0)];
    entry.member = {static_cast<PeerKind>(query.integer(1)), query.bytes(2),
                    static_cast<v1::Role>(query.integer(3))};
    entry.issued_ms = query.integer(4);
    entry.expires_ms = query.integer(5);
    entry.revoked = query.integer(6) != 0;
  }
}

Status Members::renew_own_certificate() {
  BATON_TRY(const std::string request, identity_.request());
  BATON_TRY(
      const std::string certificate,
      wire::sign(authority_, request, {PeerKind::Controller, "controller", 0}, kControllerLife));
  return identity_.renew(certificate);
}

Result<v1::Token> Members::create_token(const v1::CreateTokenRequest& request,
                                        std::int64_t now_ms) {
  const std::int64_t valid_ms = request.valid_ms() ? request.valid_ms() : kTokenMs;
  if (valid_ms > kLongestTokenMs)
    return fail(ErrorCode::InvalidArgument, "a token is good for seven days at most");
  if (!v1::Role_IsValid(request.role()) || !v1::IdentityKind_IsValid(request.kind()))
    return fail(ErrorCode::InvalidArgument, "there is no such role");
  if (request.kind() == v1::IDENTITY_USER && request.name().empty())
    return fail(ErrorCode::InvalidArgument, "a user has a name");
  if (!request.name().empty()) BATON_CHECK(check_node_name(request.name()));
  BATON_TRY(const std::string secret, wire::make_secret());
  v1::Token token;
  token.set_expires_wall_ms(now_ms + valid_ms);
  BATON_TRY(*token.mutable_text(), wire::to_text({authority_.certificate, secret}));
  std::lock_guard writing(writing_);
  BATON_TRY(auto drop, Statement::prepare(*database_, "DELETE FROM tokens WHERE expires_ms < ?"));
  BATON_CHECK(drop.bind(1, now_ms).run());
  BATON_TRY(auto put, Statement::prepare(*database_, "INSERT INTO tokens VALUES(?, ?, ?, ?, ?)"));
  put.bind_text(1, wire::sha256(secret))
      .bind(2, number_of(from_wire(request.kind())))
      .bind_text(3, request.name())
      .bind(4, static_cast<std::int64_t>(request.role()))
      .bind(5, static_cast<std::int64_t>(token.expires_wall_ms()));
  BATON_CHECK(put.run());
  return token;
}

bool Members::is_in(PeerKind kind, const std::string& name) const {
  std::lock_guard lock(mutex_);
  for (const auto& [number, entry] : certificates_)
    if (entry.member.kind == kind && entry.member.name == name && !entry.revoked) return true;
  return false;
}

Result<Member> Members::redeem(const v1::EnrollRequest& request, std::int64_t now_ms) {
  BATON_TRY(auto find, Statement::prepare(*database_,
                                          "DELETE FROM tokens WHERE hash = ? "
                                          "RETURNING kind, name, role, expires_ms"));
  find.bind_text(1, wire::sha256(request.secret()));
  BATON_TRY(bool found, find.step());
  if (!found || find.integer(3) < now_ms)
    return fail(ErrorCode::Forbidden,
                "the token is not known, was used before, or is too old; `baton token create` "
                "makes another");
  const std::string bound_to = find.bytes(1);
  Member member{static_cast<PeerKind>(find.integer(0)), bound_to,
                static_cast<v1::Role>(find.integer(2))};
  BATON_TRY(found, find.step());
  if (member.name.empty()) {
    BATON_CHECK(check_node_name(request.name()));
    member.name = request.name();
    if (is_in(member.kind, member.name))
      return fail(ErrorCode::AlreadyExists,
                  fmt::format("there is a node {0} already; to put another machine in its place: "
                              "`baton token create --node {0}`",
                              member.name));
  } else if (!request.name().empty() && request.name() != member.name) {
    return fail(ErrorCode::Forbidden,
                fmt::format("the token is for {}, not for {}", member.name, request.name()));
  }
  if (!bound_to.empty()) BATON_CHECK(strike_out(member));
  return member;
}

Status Members::strike_out(const Member& member) {
  if (lost_before_ != 0) {
    // Of those from before the loss that did not come yet, nothing is known but the name.
    BATON_TRY(auto put, Statement::prepare(*database_,
                                           "INSERT INTO certificates(kind, name, role, issued_ms, "
                                           "expires_ms, revoked) VALUES(?, ?, ?, ?, ?, 1) "
                                           "RETURNING number"));
    put.bind(1, number_of(member.kind))
        .bind_text(2, member.name)
        .bind(3, static_cast<std::int64_t>(member.role))
        .bind(4, lost_at_ms_)
        .bind(5, lost_at_ms_ + kMemberLifeMs);
    BATON_TRY(bool row, put.step());
    const Number number = row ? put.number(0) : 0;
    BATON_TRY(row, put.step());
    std::lock_guard lock(mutex_);
    certificates_[number] = {member, lost_at_ms_, lost_at_ms_ + kMemberLifeMs, true};
  }
  BATON_TRY(auto update,
            Statement::prepare(*database_,
                               "UPDATE certificates SET revoked = 1 WHERE kind = ? AND "
                               "name = ?"));
  return update.bind(1, number_of(member.kind)).bind_text(2, member.name).run();
}

Result<std::string> Members::issue(const Member& member, const std::string& request,
                                   std::int64_t now_ms) {
  Certificate entry{member, now_ms, now_ms + kMemberLifeMs, false};
  BATON_TRY(auto put, Statement::prepare(*database_,
                                         "INSERT INTO certificates(kind, name, role, issued_ms, "
                                         "expires_ms, revoked) VALUES(?, ?, ?, ?, ?, 0) "
                                         "RETURNING number"));
  put.bind(1, number_of(member.kind))
      .bind_text(2, member.name)
      .bind(3, static_cast<std::int64_t>(member.role))
      .bind(4, entry.issued_ms)
      .bind(5, entry.expires_ms);
  BATON_TRY(bool row, put.step());
  const Number number = row ? put.number(0) : 0;
  BATON_TRY(row, put.step());
  BATON_TRY(std::string pem,
            wire::sign(authority_, request, {member.kind, member.name, number}, kMemberLife));
  std::lock_guard lock(mutex_);
  certificates_[number] = std::move(entry);
  return pem;
}

// A token that was shown is spent, also when it does not fit; but not by a bad request or a bad
// disk.
Result<std::string> Members::enroll(const v1::EnrollRequest& request, std::int64_t now_ms) {
  std::lock_guard writing(writing_);
  BATON_TRY(auto transaction, Transaction::begin(*database_));
  auto member = redeem(request, now_ms);
  if (!member) {
    BATON_CHECK(transaction.commit());
    return fail(std::move(member).error());
  }
  auto pem = issue(*member, request.request(), now_ms);
  if (!pem) return pem;
  auto committed = transaction.commit();
  std::lock_guard lock(mutex_);
  const auto newest = std::prev(certificates_.end());
  if (!committed) {
    certificates_.erase(newest);
    return fail(std::move(committed).error());
  }
  for (auto& [number, entry] : certificates_)
    if (number != newest->first && entry.member.kind == member->kind &&
        entry.member.name == member->name)
      entry.revoked = true;
  return pem;
}

Result<std::string> Members::renew(const Member& member, const std::string& request,
                                   std::int64_t now_ms) {
  std::lock_guard writing(writing_);
  return issue(member, request, now_ms);
}

Result<v1::Identity> Members::revoke(PeerKind kind, const std::string& name) {
  std::lock_guard writing(writing_);
  // Also one that has not come since the members were lost: it may be in.
  if (!is_in(kind, name) && lost_before_ == 0)
    return fail(ErrorCode::NotFound, fmt::format("there is no {} \"{}\" in the cluster",
                                                 kind == PeerKind::Node ? "node" : "user", name));
  BATON_CHECK(strike_out({kind, name, {}}));
  std::lock_guard lock(mutex_);
  for (auto& [number, entry] : certificates_)
    if (entry.member.kind == kind && entry.member.name == name) entry.revoked = true;
  return *view(kind, name);
}

std::optional<v1::Identity> Members::view(PeerKind kind, const std::string& name) const {
  std::optional<v1::Identity> identity;
  for (const auto& [number, entry] : certificates_) {
    if (entry.member.kind != kind || entry.member.name != name) continue;
    // A membership ends when it is revoked; what comes after is a new one.
    if (!identity || (identity->revoked() && !entry.revoked)) {
      identity.emplace();
      identity->set_since_wall_ms(entry.issued_ms);
    }
    identity->set_kind(kind == PeerKind::Node ? v1::IDENTITY_NODE : v1::IDENTITY_USER);
    identity->set_name(name);
    identity->set_role(entry.member.role);
    identity->set_expires_wall_ms(entry.expires_ms);
    identity->set_revoked(entry.revoked);
  }
  return identity;
}

std::vector<v1::Identity> Members::list() const {
  std::lock_guard lock(mutex_);
  std::map<std::pair<PeerKind, std::string>, v1::Identity> found;
  for (const auto& [number, entry] : certificates_) {
    const std::pair key(entry.member.kind, entry.member.name);
    if (!found.contains(key)) found.emplace(key, *view(key.first, key.second));
  }
  std::vector<v1::Identity> result;
  for (auto& [key, identity] : found) result.push_back(std::move(identity));
  return result;
}

// TLS has verified its signature and its time.
bool Members::counts_from_before(const wire::PeerName& peer, std::int64_t now_ms) const {
  if (peer.number >= lost_before_ || now_ms > lost_at_ms_ + kMemberLifeMs) return false;
  for (const auto& [number, entry] : certificates_)
    if (entry.revoked && entry.member.kind == peer.kind && entry.member.name == peer.name)
      return false;
  return true;
}

Result<Member> Members::look_up(const wire::PeerName& peer, std::int64_t now_ms) {
  std::lock_guard lock(mutex_);
  auto entry = certificates_.find(peer.number);
  if (entry == certificates_.end() && counts_from_before(peer, now_ms))
    entry = certificates_
                .emplace(peer.number, Certificate{{peer.kind, peer.name, v1::ROLE_VIEWER},
                                                  lost_at_ms_,
                                                  lost_at_ms_ + kMemberLifeMs,
                                                  false})
                .first;
  if (entry == certificates_.end() || entry->second.member.kind != peer.kind ||
      entry->second.member.name != peer.name)
    return fail(
        ErrorCode::Forbidden,
        fmt::format("this cluster does not know the certificate of {}; join again", peer.name));
  if (entry->second.revoked)
    return fail(ErrorCode::Forbidden, fmt::format("{} was shut out of this cluster", peer.name));
  if (entry->second.expires_ms < now_ms)
    return fail(ErrorCode::Forbidden,
                fmt::format("the certificate of {} is too old; join again", peer.name));
  return entry->second.member;
}

}  // namespace baton::control
