#include <gtest/gtest.h>

#include "wire/channel.h"
#include "wire/status.h"

namespace baton::wire {
namespace {

TEST(WireStatus, EveryErrorSurvivesTheTrip) {
  for (auto code :
       {ErrorCode::Internal, ErrorCode::InvalidArgument, ErrorCode::NotFound,
        ErrorCode::AlreadyExists, ErrorCode::FailedPrecondition, ErrorCode::StaleGeneration,
        ErrorCode::Unavailable, ErrorCode::NoSpace, ErrorCode::Damaged, ErrorCode::Unfit,
        ErrorCode::Refused, ErrorCode::TimedOut, ErrorCode::Cancelled}) {
    Error back = from_grpc(to_grpc(Error(code, "why")));
    EXPECT_EQ(back.code(), code) << to_string(code);
    EXPECT_EQ(back.message(), "why");
  }
}

TEST(WireStatus, AStaleGenerationIsAnnouncedAsTheProtocolSays) {
  auto status = to_grpc(Error(ErrorCode::StaleGeneration, "old"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_details(), "stale generation");
}

TEST(WireStatus, ErrorsOfGrpcItselfAreUnderstood) {
  EXPECT_EQ(from_grpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "x")).code(),
            ErrorCode::Unavailable);
  // "Received message larger than max" is no full disk.
  EXPECT_EQ(from_grpc(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "x")).code(),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(from_grpc(grpc::Status(grpc::StatusCode::UNKNOWN, "x")).code(), ErrorCode::Internal);
  // It has no words for it.
  EXPECT_FALSE(from_grpc(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "")).message().empty());
  EXPECT_TRUE(check(grpc::Status::OK));
}

TEST(WireAddress, SocketsAndPorts) {
  EXPECT_EQ(*parse_address("/run/x.sock"), "unix:/run/x.sock");
  EXPECT_EQ(*parse_address("unix:/run/x.sock"), "unix:/run/x.sock");
  EXPECT_EQ(*parse_address("127.0.0.1:7077"), "127.0.0.1:7077");
  EXPECT_EQ(*parse_address("[::1]:7077"), "[::1]:7077");
  for (std::string bad : {"", "host", ":7077", "host:", "host:http", "host:70777", "host:-1"})
    EXPECT_EQ(parse_address(bad).error().code(), ErrorCode::InvalidArgument) << bad;
  EXPECT_FALSE(parse_address("/" + std::string(200, 'x')));
  EXPECT_TRUE(is_local_address("127.0.0.1:1"));
  EXPECT_FALSE(is_local_address("0.0.0.0:1"));
}

}  // namespace
}  // namespace baton::wire
