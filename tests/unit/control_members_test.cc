#include <gtest/gtest.h>

#include "base/clock.h"
#include "control/members.h"
#include "fakes/temp_dir.h"
#include "sys/file.h"

namespace baton::control {
namespace {

constexpr std::int64_t kNow = 1'800'000'000'000;  // any

class MembersTest : public testing::Test {
 protected:
  void SetUp() override { open(); }
  void open() {
    members_.reset();
    auto opened = Members::open(folder_.path());
    ASSERT_TRUE(opened) << opened.error().message();
    members_ = std::move(*opened);
  }
  std::string secret(v1::IdentityKind kind, const std::string& name,
                     v1::Role role = v1::ROLE_VIEWER, std::uint32_t valid_ms = 0) {
    v1::CreateTokenRequest request;
    request.set_kind(kind);
    request.set_name(name);
    request.set_role(role);
    request.set_valid_ms(valid_ms);
    auto token = members_->create_token(request, kNow);
    EXPECT_TRUE(token) << token.error().message();
    return wire::parse_join_token(token->text())->secret;
  }
  Result<wire::PeerName> enroll(const std::string& secret, const std::string& name,
                                std::int64_t now = kNow) {
    v1::EnrollRequest request;
    request.set_secret(secret);
    request.set_name(name);
    request.set_request(*wire::make_request(*wire::make_key()));
    BATON_TRY(const std::string pem, members_->enroll(request, now));
    const auto facts = wire::read_certificate(pem);
    if (!facts) return fail(facts.error());
    return facts->name.value();
  }
  ErrorCode refusal(const std::string& secret, const std::string& name, std::int64_t now = kNow) {
    auto peer = enroll(secret, name, now);
    return peer ? ErrorCode::Internal : peer.error().code();
  }
  bool is_in(const wire::PeerName& peer, std::int64_t now = kNow) {
    return members_->look_up(peer, now).has_value();
  }

  fakes::TempDir folder_;
  std::unique_ptr<Members> members_;
};

TEST_F(MembersTest, ATokenIsGoodOnce) {
  const std::string token = secret(v1::IDENTITY_NODE, "");
  auto peer = enroll(token, "node-1");
  ASSERT_TRUE(peer) << peer.error().message();
  EXPECT_EQ(*peer, (wire::PeerName{wire::PeerKind::Node, "node-1", peer->number}));
  EXPECT_TRUE(is_in(*peer));
  EXPECT_EQ(refusal(token, "node-2"), ErrorCode::Forbidden);
}

TEST_F(MembersTest, ATokenIsGoodForItsTime) {
  const std::string token = secret(v1::IDENTITY_NODE, "", v1::ROLE_VIEWER, 1'000);
  EXPECT_EQ(refusal(token, "node-1", kNow + 1'001), ErrorCode::Forbidden);
  // And spent by that.
  EXPECT_EQ(refusal(token, "node-1", kNow), ErrorCode::Forbidden);
  EXPECT_TRUE(enroll(secret(v1::IDENTITY_NODE, "", v1::ROLE_VIEWER, 1'000), "node-1", kNow + 999));
}

TEST_F(MembersTest, WhatIsNoTokenIsRefused) {
  for (const char* guess : {"", "x", "' OR 1=1 --"})
    EXPECT_EQ(refusal(guess, "node-1"), ErrorCode::Forbidden);
}

TEST_F(MembersTest, ATokenForANameIsForThatName) {
  const std::string token = secret(v1::IDENTITY_NODE, "node-1");
  EXPECT_EQ(refusal(token, "node-2"), ErrorCode::Forbidden);
  EXPECT_EQ(enroll(secret(v1::IDENTITY_USER, "alice", v1::ROLE_OPERATOR), "")->name, "alice");
}

TEST_F(MembersTest, ATokenForNoNameTakesNoName) {
  auto first = enroll(secret(v1::IDENTITY_NODE, ""), "node-1");
  ASSERT_TRUE(first);
  EXPECT_EQ(refusal(secret(v1::IDENTITY_NODE, ""), "node-1"), ErrorCode::AlreadyExists);
  EXPECT_TRUE(is_in(*first));
  // One that an administrator made for the name puts another machine in its place.
  auto second = enroll(secret(v1::IDENTITY_NODE, "node-1"), "node-1");
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_FALSE(is_in(*first));
  EXPECT_TRUE(is_in(*second));
}

TEST_F(MembersTest, ABadRequestSpendsNoToken) {
  const std::string token = secret(v1::IDENTITY_NODE, "");
  v1::EnrollRequest request;
  request.set_secret(token);
  request.set_name("node-1");
  request.set_request("rubbish");
  EXPECT_EQ(members_->enroll(request, kNow).error().code(), ErrorCode::InvalidArgument);
  EXPECT_TRUE(enroll(token, "node-1"));
}

TEST_F(MembersTest, NamesAreChecked) {
  for (const char* name : {"", "..", "a b", "a,b", "x\ny"})
    EXPECT_EQ(refusal(secret(v1::IDENTITY_NODE, ""), name), ErrorCode::InvalidArgument) << name;
  v1::CreateTokenRequest request;
  request.set_kind(v1::IDENTITY_USER);
  EXPECT_EQ(members_->create_token(request, kNow).error().code(), ErrorCode::InvalidArgument);
  request.set_name("a:b");
  EXPECT_EQ(members_->create_token(request, kNow).error().code(), ErrorCode::InvalidArgument);
  request.set_name("alice");
  request.set_valid_ms(8 * 24 * 3'600'000u);
  EXPECT_EQ(members_->create_token(request, kNow).error().code(), ErrorCode::InvalidArgument);
}

TEST_F(MembersTest, RevokingCountsForAllCertificatesAndForGood) {
  auto peer = enroll(secret(v1::IDENTITY_NODE, "node-1"), "node-1");
  ASSERT_TRUE(peer);
  auto renewed = members_->renew({wire::PeerKind::Node, "node-1", {}},
                                 *wire::make_request(*wire::make_key()), kNow);
  ASSERT_TRUE(renewed);
  const wire::PeerName newer = *wire::read_certificate(*renewed)->name;
  EXPECT_TRUE(is_in(*peer));  // until it is too old
  EXPECT_TRUE(is_in(newer));
  ASSERT_TRUE(members_->revoke(wire::PeerKind::Node, "node-1"));
  EXPECT_FALSE(is_in(*peer));
  EXPECT_FALSE(is_in(newer));
  open();
  EXPECT_FALSE(is_in(*peer));
  EXPECT_FALSE(is_in(newer));
  EXPECT_EQ(members_->revoke(wire::PeerKind::Node, "node-1").error().code(), ErrorCode::NotFound);
  EXPECT_EQ(members_->revoke(wire::PeerKind::User, "nobody").error().code(), ErrorCode::NotFound);
}

TEST_F(MembersTest, WhoIsInIsRemembered) {
  auto node = enroll(secret(v1::IDENTITY_NODE, ""), "node-1");
  auto user = enroll(secret(v1::IDENTITY_USER, "alice", v1::ROLE_ADMIN), "");
  const std::string unspent = secret(v1::IDENTITY_NODE, "");
  const std::string authority = members_->authority();
  open();
  EXPECT_EQ(members_->authority(), authority);
  EXPECT_TRUE(is_in(*node));
  EXPECT_EQ(members_->look_up(*user, kNow)->role, v1::ROLE_ADMIN);
  EXPECT_TRUE(enroll(unspent, "node-2"));
  EXPECT_EQ(members_->list().size(), 3u);
}

TEST_F(MembersTest, ACertificateCountsForItsTimeAndItsOwner) {
  auto peer = enroll(secret(v1::IDENTITY_USER, "alice", v1::ROLE_USER), "");
  ASSERT_TRUE(peer);
  EXPECT_FALSE(is_in(*peer, kNow + 31ll * 24 * 3'600'000));
  wire::PeerName other = *peer;
  other.name = "bob";
  EXPECT_FALSE(is_in(other));
  other = *peer;
  other.kind = wire::PeerKind::Node;
  EXPECT_FALSE(is_in(other));
  other = *peer;
  other.number += 1;
  EXPECT_FALSE(is_in(other));
}

// The time is that of the clock here: what is noted of a loss is when it was found.
class LostMembersTest : public MembersTest {
 protected:
  void SetUp() override {
    MembersTest::SetUp();
    now_ = wall_time_ms();
    node_ = *enroll(secret(v1::IDENTITY_NODE, "node-1"), "", now_);
    user_ = *enroll(secret(v1::IDENTITY_USER, "alice", v1::ROLE_ADMIN), "", now_);
    EXPECT_EQ(members_->lost(), "");
  }
  void lose() {
    members_.reset();
    for (const char* name : {"members.db", "members.db-wal", "members.db-shm"})
      std::filesystem::remove(folder_.path() / name);
    open();
  }
  bool counts(const wire::PeerName& peer) { return members_->look_up(peer, now_).has_value(); }

  std::int64_t now_ = 0;
  wire::PeerName node_, user_;
};

TEST_F(LostMembersTest, CertificatesCountWithoutTheirRecords) {
  lose();
  EXPECT_EQ(members_->lost(), "members.db was missing or empty");
  EXPECT_TRUE(counts(node_));
  ASSERT_TRUE(counts(user_));
  EXPECT_EQ(members_->look_up(user_, now_)->role, v1::ROLE_VIEWER) << "nobody knows more";
  EXPECT_EQ(members_->list().size(), 2u);
  const std::int64_t month_ms = 31ll * 24 * 3'600'000;
  EXPECT_FALSE(members_->look_up({wire::PeerKind::Node, "node-9", 4}, now_ + month_ms));
  // It is said once, and remembered.
  open();
  EXPECT_EQ(members_->lost(), "");
  EXPECT_TRUE(counts(node_));
}

TEST_F(LostMembersTest, NewNumbersAreNotOldOnes) {
  lose();
  auto other = enroll(secret(v1::IDENTITY_NODE, "node-2"), "", now_);
  ASSERT_TRUE(other) << other.error().message();
  EXPECT_GT(other->number, 1'000'000'000u);
  EXPECT_TRUE(counts(*other));
  wire::PeerName forged = *other;
  forged.number += 1;
  EXPECT_FALSE(counts(forged));
}

TEST_F(LostMembersTest, RevokingANameShutsItsOldCertificatesOut) {
  lose();
  ASSERT_TRUE(members_->revoke(wire::PeerKind::Node, "node-1")) << "also one that has not come yet";
  EXPECT_FALSE(counts(node_));
  EXPECT_TRUE(counts(user_));
  open();
  EXPECT_FALSE(counts(node_));
  auto again = enroll(secret(v1::IDENTITY_NODE, "node-1"), "", now_);
  ASSERT_TRUE(again);
  EXPECT_TRUE(counts(*again));
  EXPECT_FALSE(counts(node_));
}

TEST_F(LostMembersTest, ATokenForANameTakesItsPlace) {
  lose();
  ASSERT_TRUE(counts(user_));
  auto again = enroll(secret(v1::IDENTITY_USER, "alice", v1::ROLE_ADMIN), "", now_);
  ASSERT_TRUE(again);
  EXPECT_FALSE(counts(user_));
  EXPECT_EQ(members_->look_up(*again, now_)->role, v1::ROLE_ADMIN);
}

TEST_F(LostMembersTest, ADamagedFileIsMovedAside) {
  members_.reset();
  for (const char* name : {"members.db-wal", "members.db-shm"})
    std::filesystem::remove(folder_.path() / name);
  ASSERT_TRUE(sys::write_file_durable(folder_.path() / "members.db", std::string(5'000, 'x')));
  open();
  EXPECT_NE(members_->lost().find("members.db.damaged-1"), std::string::npos) << members_->lost();
  EXPECT_EQ(sys::read_file(folder_.path() / "members.db.damaged-1").value_or(""),
            std::string(5'000, 'x'));
  EXPECT_TRUE(counts(node_));
}

// What is on disk lets nobody in: tokens are kept as hashes.
TEST_F(MembersTest, SecretsAreNotOnDisk) {
  const std::string token = secret(v1::IDENTITY_NODE, "");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
    if (!entry.is_regular_file()) continue;
    const auto content = sys::read_file(entry.path());
    ASSERT_TRUE(content);
    EXPECT_EQ(content->find(token), std::string::npos) << entry.path();
  }
}

}  // namespace
}  // namespace baton::control
