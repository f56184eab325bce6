// The store's key: how it is given, and a controller with an encrypted store.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "store/hash.h"
#include "sys/file.h"
#include "unit/control_fixture.h"

namespace baton::control {
namespace {

namespace fs = std::filesystem;
using fakes::FakeAgent;
using testing::HasSubstr;
using testing::Not;

const std::string kHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F";
const std::string kBase64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

std::string raw_key() {
  std::string key;
  for (char byte = 0; byte < 32; ++byte) key += byte;
  return key;
}
std::string text(const Result<store::Secret>& key) {
  if (!key) return key.error().message();
  return {reinterpret_cast<const char*>(key->data()), store::Secret::kBytes};
}

TEST(StoreKey, ComesInThreeForms) {
  for (const std::string& form :
       {raw_key(), kHex, kHex + "\n", kBase64, "  " + kBase64 + "\r\n", kBase64.substr(0, 43)})
    EXPECT_EQ(text(parse_store_key(form)), raw_key());
  for (const std::string& form :
       {std::string(), raw_key() + "x", raw_key().substr(1), kHex.substr(2), kHex + "00",
        kHex.substr(0, 63) + "g", kHex.substr(0, 32), kBase64.substr(4), std::string(44, '=')}) {
    const auto key = parse_store_key(form);
    ASSERT_FALSE(key);
    EXPECT_EQ(key.error().code(), ErrorCode::InvalidArgument);
    EXPECT_THAT(key.error().message(), Not(HasSubstr("0203")));
  }
}

TEST(StoreKey, AFileThatOthersMayReadIsRefused) {
  fakes::TempDir folder;
  const fs::path file = folder.path() / "key";
  std::ofstream(file) << kHex;
  for (mode_t mode : {0644, 0640, 0604, 0620}) {
    ::chmod(file.c_str(), mode);
    const auto key = read_store_key({file, ""});
    ASSERT_FALSE(key);
    EXPECT_THAT(key.error().message(), HasSubstr("chmod 600 " + file.string()));
  }
  for (mode_t mode : {0600, 0400}) {
    ::chmod(file.c_str(), mode);
    EXPECT_EQ(text(read_store_key({file, ""})), raw_key());
  }
  if (::chown(file.c_str(), 12345, 0) == 0) {  // we are root
    EXPECT_THAT(text(read_store_key({file, ""})), HasSubstr("belongs to user 12345"));
  }
  EXPECT_THAT(text(read_store_key({folder.path() / "none", ""})), HasSubstr("none"));
}

TEST(StoreKey, ACommandPrintsIt) {
  EXPECT_EQ(text(read_store_key({"", "x=" + kHex + "; echo $x"})), raw_key());
  EXPECT_EQ(text(read_store_key({"", "[\"/bin/echo\", \"" + kHex + "\"]"})), raw_key());
  EXPECT_THAT(text(read_store_key({"", "echo " + kHex + "; exit 3"})), HasSubstr("ended with 3"));
  EXPECT_THAT(text(read_store_key({"", "kill -9 $$"})), HasSubstr("signal 9"));
  EXPECT_THAT(text(read_store_key({"", "cat /dev/zero"})), HasSubstr("more than a key"));
  EXPECT_THAT(text(read_store_key({"", "[\"echo\"]"})), HasSubstr("absolute path"));
  EXPECT_THAT(text(read_store_key({"", "[1"})), HasSubstr("JSON"));
  const std::string shorter = text(read_store_key({"", "echo 00010203"}));
  EXPECT_THAT(shorter, HasSubstr("what the command for the store's key prints"));
  EXPECT_THAT(shorter, Not(HasSubstr("00010203")));
}

TEST(StoreKey, IsGivenOnce) {
  EXPECT_FALSE(*read_store_keys({}, {}));
  EXPECT_THAT(read_store_keys({}, {"", "echo"}).error().message(), HasSubstr("needs a new one"));
  EXPECT_FALSE(read_store_keys({"/x", "echo"}, {}));
  const StoreKeySource key{"", "echo " + kHex};
  EXPECT_FALSE((*read_store_keys(key, {}))->old);
  EXPECT_TRUE((*read_store_keys(key, key))->old);
}

class EncryptedControllerTest : public ControllerTest {
 protected:
  void SetUp() override {
    write_key(key_, 'k');
    ControllerTest::SetUp();
  }
  ControllerOptions options() const override {
    ControllerOptions options = ControllerTest::options();
    if (encrypted_) options.store_key.file = key_;
    return options;
  }
  static void write_key(const fs::path& path, char fill) {
    std::ofstream(path) << std::string(32, fill);
    ::chmod(path.c_str(), 0600);
  }
  std::string refusal(const fs::path& key, const fs::path& old = {}) {
    ControllerOptions options = ControllerTest::options();
    options.data = directory_.path();
    options.listen = {"127.0.0.1:0"};
    options.store_key.file = key;
    options.old_store_key.file = old;
    auto started = Controller::start(options);
    return started ? "" : started.error().message();
  }
  bool on_disk(const std::string& text) {
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path()))
      if (entry.is_regular_file() && sys::read_file(entry.path())->find(text) != std::string::npos)
        return true;
    return false;
  }
  store::CheckpointStore& checkpoints() { return controller_->loop().stores().checkpoints; }
  std::string archive_of(const std::string& name) {
    v1::CheckpointRef checkpoint;
    *checkpoint.mutable_job() = ref(name);
    grpc::ClientContext context;
    auto stream = store_->Export(&context, checkpoint);
    std::string bytes;
    v1::ExportPart part;
    while (stream->Read(&part)) bytes += part.data();
    EXPECT_TRUE(stream->Finish().ok());
    return bytes;
  }
  Result<v1::Job> import_of(const std::string& bytes, const std::string& name) {
    grpc::ClientContext context;
    v1::Job job;
    auto stream = store_->Import(&context, &job);
    v1::ImportPart part;
    part.set_name(name);
    stream->Write(part);
    part.set_data(bytes);
    stream->Write(part);
    stream->WritesDone();
    BATON_CHECK(wire::check(stream->Finish()));
    return job;
  }

  fakes::TempDir keys_;
  const fs::path key_ = keys_.path() / "key";
  bool encrypted_ = true;
};

TEST_F(EncryptedControllerTest, NobodyNoticesButWhoReadsTheDisk) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  const auto id = run_on(one, spec("loop"));
  const std::string memory = "a secret in a program's memory";
  const std::string pack = "packs/" + store::hash_bytes(memory);
  const Files files = {{pack, memory}, {"images/core-2.img", "another secret"}};
  ASSERT_OK(one.upload(id, 1, 0, files));
  ASSERT_OK(one.upload(id, 1, 0, files));
  EXPECT_EQ(checkpoints().list_shared_files()->size(), 1u);
  EXPECT_FALSE(on_disk("secret"));
  restart();
  EXPECT_EQ(*one.download(id, 1, 2), files);
  EXPECT_TRUE(checkpoints().verify(JobId(id), CheckpointNumber(2)));
  Scrubber scrubber(controller_->loop());
  scrubber.pass({});
  EXPECT_EQ(events("damage").size(), 0u);
  auto stats = call(&v1::Store::Stub::Stats, v1::Empty());
  ASSERT_TRUE(stats);
  EXPECT_TRUE(stats->encrypted());
  EXPECT_EQ(stats->unencrypted(), 0u);
  // Archives are in clear, whatever the store is.
  const std::string archive = archive_of("loop");
  EXPECT_THAT(archive, HasSubstr(memory));
  auto copy = import_of(archive, "copy");
  ASSERT_TRUE(copy) << copy.error().message();
  EXPECT_FALSE(on_disk("secret"));
  EXPECT_TRUE(checkpoints().verify(JobId(copy->id()), CheckpointNumber(1)));
}

TEST_F(EncryptedControllerTest, AWrongKeyOrNoneIsRefusedAtStart) {
  controller_.reset();
  write_key(keys_.path() / "wrong", 'w');
  EXPECT_THAT(refusal(keys_.path() / "wrong"), HasSubstr("not that of the encrypted store"));
  EXPECT_THAT(refusal(""), HasSubstr("is encrypted: give its key"));
  EXPECT_EQ(refusal(keys_.path() / "wrong", key_), "") << "it takes the other's place";
  EXPECT_THAT(refusal(key_), HasSubstr("not that of the encrypted store"));
  EXPECT_EQ(refusal(keys_.path() / "wrong"), "");
}

TEST_F(EncryptedControllerTest, ARemovedJobsKeyIsGoneWhenTheUserIsTold) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  const auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "x"}}));
  const fs::path key = directory_.path() / "keys" / fmt::to_string(id);
  EXPECT_TRUE(fs::exists(key));
  ASSERT_OK(one.report_exit(id, 1, 0, 0));
  await_state("loop", v1::JOB_EXITED);
  ASSERT_OK(call(&v1::Api::Stub::Remove, ref("loop")));
  EXPECT_FALSE(fs::exists(key));
}

TEST_F(EncryptedControllerTest, KeysOfJobsThatAreNotRecordedGoAtStart) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  const auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "x"}}));
  { auto begun = checkpoints().begin_upload(JobId(id + 1)); }
  restart();
  EXPECT_TRUE(fs::exists(directory_.path() / "keys" / fmt::to_string(id)));
  EXPECT_FALSE(fs::exists(directory_.path() / "keys" / fmt::to_string(id + 1)));
  EXPECT_TRUE(checkpoints().begin_upload(JobId(id + 1))) << "the id may be another's now";
}

TEST_F(EncryptedControllerTest, CheckpointsFromBeforeTheKeyAreCounted) {
  controller_.reset();
  fs::remove_all(directory_.path() / "keys");
  encrypted_ = false;
  start();
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  const auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "before"}}));
  encrypted_ = true;
  restart();
  EXPECT_EQ(call(&v1::Store::Stub::Stats, v1::Empty())->unencrypted(), 1u);
  EXPECT_EQ(one.download(id, 1, 1)->at("f"), "before");
}

}  // namespace
}  // namespace baton::control
