// Who reads slowly is not buried in what comes.
#include <grpcpp/server.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::wire {
namespace {

constexpr std::uint64_t kMessages = 200;  // of kChunkBytes each
// Beside what is read ahead: the message that is written, the one that gRPC has begun to read for
// whoever waits, and the one that was read last.
constexpr std::uint64_t kAheadMax = kReadAheadBytes / kChunkBytes + 3;

// How far the writer is ahead of the reader, in messages.
class Race {
 public:
  void written() { ++written_; }
  void read(const std::string& data) {
    const std::uint64_t ahead = written_ - read_;
    if (ahead > ahead_max_) ahead_max_ = ahead;
    // The reader has more to do than the writer.
    std::string digest;
    for (int i = 0; i < 40; ++i) digest += std::to_string(std::hash<std::string>()(data + digest));
    ++read_;
  }
  std::uint64_t messages_read() const { return read_; }
  std::uint64_t ahead_max() const { return ahead_max_; }

 private:
  std::atomic<std::uint64_t> written_ = 0, read_ = 0, ahead_max_ = 0;
};

class Peer final : public v1::Cluster::Service {
 public:
  explicit Peer(Race& race) : race_(race) {}

  grpc::Status UploadCheckpoint(grpc::ServerContext*, grpc::ServerReader<v1::UploadPart>* stream,
                                v1::UploadReply*) override {
    v1::UploadPart part;
    while (stream->Read(&part)) race_.read(part.files().parts(0).data());
    return grpc::Status::OK;
  }
  grpc::Status DownloadCheckpoint(grpc::ServerContext*, const v1::DownloadRequest*,
                                  grpc::ServerWriter<v1::DownloadPart>* stream) override {
    v1::DownloadPart part;
    part.mutable_files()->add_parts()->mutable_data()->resize(kChunkBytes, 'x');
    for (std::uint64_t i = 0; i < kMessages && stream->Write(part); ++i) race_.written();
    return grpc::Status::OK;
  }

 private:
  Race& race_;
};

class Flow : public testing::Test {
 protected:
  void SetUp() override {
    grpc::ServerBuilder builder;
    configure(builder);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&peer_);
    server_ = builder.BuildAndStart();
    ASSERT_TRUE(server_);
    auto channel = open_channel("127.0.0.1:" + std::to_string(port), {.insecure = true});
    ASSERT_TRUE(channel) << channel.error().message();
    stub_ = v1::Cluster::NewStub(*channel);
  }

  Race race_;
  Peer peer_{race_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Cluster::Stub> stub_;
};

TEST_F(Flow, AServerThatReadsSlowlyKeepsTheClientFromSending) {
  grpc::ClientContext context;
  v1::UploadReply reply;
  const auto stream = stub_->UploadCheckpoint(&context, &reply);
  v1::UploadPart part;
  part.mutable_files()->add_parts()->mutable_data()->resize(kChunkBytes, 'x');
  for (std::uint64_t i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(stream->Write(part, grpc::WriteOptions().set_buffer_hint()));
    race_.written();
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(race_.messages_read(), kMessages);
  EXPECT_LE(race_.ahead_max(), kAheadMax);
}

TEST_F(Flow, AClientThatReadsSlowlyKeepsTheServerFromSending) {
  grpc::ClientContext context;
  const auto stream = stub_->DownloadCheckpoint(&context, v1::DownloadRequest());
  v1::DownloadPart part;
  while (stream->Read(&part)) race_.read(part.files().parts(0).data());
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(race_.messages_read(), kMessages);
  EXPECT_LE(race_.ahead_max(), kAheadMax);
}

}  // namespace
}  // namespace baton::wire
