// The stream on which orders come down and results go up.
//
// A thread of its own reads; whenever the stream breaks it attaches again, as soon as the
// controller can be reached. The controller then repeats the orders that it has no result of: one
// that was seen already is not passed on again, and its result, once there is one, is sent again.
//
// A registration voids every order before it. So that none of them is taken up, or answered, as one
// of the controller's next life, orders get numbers of our own on their way in.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::agent {

namespace pb = baton::v1;

// Which orders of the present registration were seen, and what came of them. Not thread-safe.
class OrderLedger {
 public:
  // Gives the order a number of ours if it is new. Else nothing; its result if there is one.
  struct Seen {
    bool is_new = false;
    std::optional<pb::OrderResult> result;
  };
  Seen take(pb::Order& order);
  // From our number to the controller's; nothing if the order is void.
  std::optional<pb::OrderResult> settle(pb::OrderResult result);
  void clear();

 private:
  struct Entry {
    std::uint64_t ours = 0;
    std::optional<pb::OrderResult> result;
  };
  std::map<std::uint64_t, Entry> entries_;         // by the controller's number
  std::map<std::uint64_t, std::uint64_t> theirs_;  // by ours, while it has no result
  std::uint64_t last_ours_ = 0;
};

class Attachment {
 public:
  // `on_order` is called from the reading thread and must not block.
  Attachment(std::string node, std::string agent_epoch,
             std::function<void(const pb::Order&)> on_order);
  ~Attachment();

  void start(const wire::Dialer& dialer);
  void stop();
  // Before a registration's list is made: when this returns, no order is passed on any more.
  void close();
  // The controller knows this agent (again).
  void registered();
  void send(const pb::OrderResult& result);

 private:
  using Stream = grpc::ClientReaderWriter<pb::AgentMessage, pb::Order>;

  void loop();
  grpc::Status serve();
  void note_end(const grpc::Status& status, bool lived);
  void take_order(pb::Order order);
  void write(const pb::OrderResult& result);

  const std::string node_;
  const std::string agent_epoch_;
  const std::function<void(const pb::Order&)> on_order_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Cluster::Stub> stub_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;  // registered
  std::uint64_t registrations_ = 0;
  bool stopping_ = false;
  grpc::ClientContext* context_ = nullptr;

  std::mutex dispatch_mutex_;  // held while an order is passed on
  bool dispatching_ = false;   // orders of the present stream count
  std::mutex ledger_mutex_;
  OrderLedger ledger_;

  std::mutex write_mutex_;  // one writer at a time; also guards stream_
  std::shared_ptr<Stream> stream_;
  std::string last_end_;  // of the thread alone
  std::thread thread_;
};

}  // namespace baton::agent
