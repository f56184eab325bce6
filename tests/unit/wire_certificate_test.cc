#include <gtest/gtest.h>
#include <sys/stat.h>

#include <ctime>

#include "fakes/temp_dir.h"
#include "wire/certificate.h"
#include "wire/identity.h"
#include "wire/membership.h"

namespace baton::wire {
namespace {

using namespace std::chrono_literals;

Authority authority() { return *make_authority("test", 24h); }

TEST(PeerName, GoesThroughItsUri) {
  const PeerName node{PeerKind::Node, "rack-1.node_2", 18'446'744'073'709'551'615u};
  EXPECT_EQ(to_uri(node), "baton:node:rack-1.node_2:18446744073709551615");
  EXPECT_EQ(parse_peer_uri(to_uri(node)), node);
  const PeerName user{PeerKind::User, "7", 0};
  EXPECT_EQ(parse_peer_uri(to_uri(user)), user);
}

TEST(PeerName, NothingElseIsOne) {
  for (const char* uri :
       {"", "baton:", "baton:node:", "baton:node:x", "baton:node:x:", "baton:node::1",
        "baton:node:x:01", "baton:node:x:1 ", "baton:node:x:-1", "baton:node:x:+1",
        "baton:node:x:18446744073709551616", "baton:admin:x:1", "BATON:node:x:1",
        "baton:node:x:1:2", "spiffe://baton/node/x/1", "baton:node:a:b:1"})
    EXPECT_FALSE(parse_peer_uri(uri)) << uri;
}

TEST(Certificates, SayWhoAndForHowLong) {
  const Authority ca = authority();
  const std::string request = *make_request(*make_key());
  const PeerName name{PeerKind::Node, "node-1", 7};
  const auto pem = sign(ca, request, name, 3600s);
  ASSERT_TRUE(pem) << pem.error().message();
  const auto facts = read_certificate(*pem);
  ASSERT_TRUE(facts) << facts.error().message();
  EXPECT_EQ(facts->name, name);
  const auto now = std::time(nullptr);
  EXPECT_NEAR(static_cast<double>(facts->made_s), static_cast<double>(now), 5);
  EXPECT_NEAR(static_cast<double>(facts->not_after_s), static_cast<double>(now + 3600), 5);
}

// One of an earlier version, which said that it was valid from when it was made.
TEST(Certificates, OfEarlierVersionsAreRenewed) {
  const auto facts = read_certificate(R"(-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUNoBSyIEgP78ULYg+PMcrUJcpecMwCgYIKoZIzj0EAwIw
EDEOMAwGA1UECgwFQmF0b24wHhcNMjYxMTI4MDI1NzExWhcNMjYxMjI4MDI1NzEx
WjAQMQ4wDAYDVQQKDAVCYXRvbjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKQD
LFeGK9t1tPr9NsD5Sn+LfXS5Bbtse+vJ2Q4i4nTLCgng+SoTl8VLWiwQV6FgmfeD
EvkzWoHWzfcPctUJJ66jczBxMB0GA1UdDgQWBBQNH+4+nQJW7xjo0UtWXuNiu93H
OzAfBgNVHSMEGDAWgBQNH+4+nQJW7xjo0UtWXuNiu93HOzAPBgNVHRMBAf8EBTAD
AQH/MB4GA1UdEQQXMBWGE2JhdG9uOm5vZGU6bm9kZS0xOjcwCgYIKoZIzj0EAwID
SQAwRgIhAOWCuSFBZR1gkpRMm0w0I6cmVJD2QqgEg8y0lx7mcXAxAiEAwu0ZXgim
izEMPWzMZB8RVVi1uHfR95MqNo0CzkxxY2I=
-----END CERTIFICATE-----
)");
  ASSERT_TRUE(facts) << facts.error().message();
  EXPECT_LT(facts->made_s, facts->not_after_s);
  EXPECT_TRUE(is_due(*facts, facts->not_after_s - 1));
  EXPECT_FALSE(is_due(*facts, facts->made_s + 1));
}

TEST(Certificates, AreDueInTheirLastThird) {
  CertificateFacts facts;
  facts.made_s = 1'000;
  facts.not_after_s = 4'000;
  EXPECT_FALSE(is_due(facts, 2'999));
  EXPECT_TRUE(is_due(facts, 3'000));
}

// A comma would begin another name in OpenSSL's notation, a colon another field of ours.
TEST(Certificates, TakeNoNameThatCouldSmuggleAnother) {
  const Authority ca = authority();
  const std::string request = *make_request(*make_key());
  for (const char* name : {"", "a,URI:baton:user:root:1", "a:b", "a b", "a\nb", "\xc3\xa4"}) {
    const auto pem = sign(ca, request, {PeerKind::Node, name, 1}, 3600s);
    ASSERT_FALSE(pem) << name;
    EXPECT_EQ(pem.error().code(), ErrorCode::InvalidArgument);
  }
}

TEST(Certificates, AreMadeForProvenKeysAlone) {
  const Authority ca = authority();
  const PeerName name{PeerKind::Node, "node-1", 1};
  std::string request = *make_request(*make_key());
  EXPECT_EQ(sign(ca, "", name, 1h).error().code(), ErrorCode::InvalidArgument);
  EXPECT_EQ(sign(ca, ca.certificate, name, 1h).error().code(), ErrorCode::InvalidArgument);
  // The signature stands at the end: with another in its place the key is not proven.
  const std::string other = *make_request(*make_key());
  const auto at = request.rfind('\n', request.rfind("\n-----END"));
  const std::size_t tail = 40;
  std::string forged = request;
  forged.replace(at - tail, tail, other, at - tail, tail);
  EXPECT_EQ(sign(ca, forged, name, 1h).error().code(), ErrorCode::InvalidArgument);
}

TEST(Secrets, AreLongAndDifferent) {
  const std::string one = *make_secret(), two = *make_secret();
  EXPECT_EQ(one.size(), 43u);
  EXPECT_NE(one, two);
  EXPECT_EQ(
      one.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"),
      std::string::npos);
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(JoinTokens, GoThroughText) {
  for (int i = 0; i < 20; ++i) {  // certificates differ in length, and so does their padding
    const JoinToken token{authority().certificate, *make_secret()};
    const auto text = to_text(token);
    ASSERT_TRUE(text) << text.error().message();
    EXPECT_EQ(text->find_first_of(" \n"), std::string::npos);
    const auto back = parse_join_token(*text + "\n");
    ASSERT_TRUE(back) << back.error().message();
    EXPECT_EQ(back->authority, token.authority);
    EXPECT_EQ(back->secret, token.secret);
  }
}

TEST(JoinTokens, AreNotGuessedFromRubbish) {
  const std::string text = *to_text({authority().certificate, "secret"});
  for (const std::string& bad :
       {std::string(), std::string("baton1."), std::string("baton1.."), std::string("baton1.x.y"),
        std::string("baton2") + text.substr(6), text.substr(0, text.size() - 7),
        text.substr(0, 100) + text.substr(text.size() - 7), std::string("baton1.secret")}) {
    const auto token = parse_join_token(bad);
    ASSERT_FALSE(token) << bad;
    EXPECT_EQ(token.error().code(), ErrorCode::InvalidArgument);
    EXPECT_EQ(token.error().message().find("secret"), std::string::npos);
  }
}

TEST(Identities, KeepTheirKey) {
  const fakes::TempDir folder;
  const Identity identity(folder.path() / "identity");
  EXPECT_FALSE(identity.exists());
  EXPECT_EQ(identity.facts().error().code(), ErrorCode::NotFound);
  const Authority ca = authority();
  const PeerName name{PeerKind::User, "alice", 3};
  const auto request = identity.request();
  ASSERT_TRUE(request) << request.error().message();
  EXPECT_FALSE(identity.exists());
  ASSERT_TRUE(identity.save(ca.certificate, *sign(ca, *request, name, 1h)));
  EXPECT_TRUE(identity.exists());
  EXPECT_EQ(identity.facts()->name, name);
  struct stat status {};
  ASSERT_EQ(::stat(identity.key_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const auto again = identity.request();
  ASSERT_TRUE(again);
  ASSERT_TRUE(identity.renew(*sign(ca, *again, {PeerKind::User, "alice", 4}, 1h)));
  EXPECT_EQ(identity.facts()->name->number, 4u);
}

}  // namespace
}  // namespace baton::wire
