#include "agent/sandbox_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// A socket's name holds 108 bytes, a path may be longer: go through the folder's descriptor.
Result<sockaddr_un> control_address(const Fd& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/control.sock", folder.get());
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<Fd> new_socket(std::chrono::milliseconds timeout) {
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno("socket");
  const timeval limit{timeout.count() / 1000, (timeout.count() % 1000) * 1000};
  // The first also limits connect(2).
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return socket;
}

Status send_request(int socket, const init::Request& request, int fd) {
  iovec data{const_cast<init::Request*>(&request), sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  ssize_t count;
  do {
    count = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return fail(ErrorCode::TimedOut, "the sandbox's pid 1 does not answer");
  if (count < 0) return fail(ErrorCode::Unavailable, "the sandbox has ended");
  return {};
}

Result<init::Reply> receive_reply(int socket, std::vector<Fd>* fds) {
  init::Reply reply;
  iovec data{&reply, sizeof reply};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t count;
  do {
    count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return fail(ErrorCode::TimedOut, "the sandbox's pid 1 does not answer");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); count >= 0 && header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t at = CMSG_LEN(0); at < header->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, reinterpret_cast<char*>(header) + at, sizeof fd);
      fds->emplace_back(fd);
    }
  }
  if (count <= 0) return fail(ErrorCode::Unavailable, "the sandbox has ended");
  if (count != sizeof reply)
    return fail(ErrorCode::Internal, "the sandbox's pid 1 is of another version");
  reply.text[sizeof reply.text - 1] = 0;
  return reply;
}

ErrorCode code_of(init::Code code) {
  switch (code) {
    case init::Code::InvalidArgument: return ErrorCode::InvalidArgument;
    case init::Code::NotFound: return ErrorCode::NotFound;
    case init::Code::FailedPrecondition: return ErrorCode::FailedPrecondition;
    default: return ErrorCode::Internal;
  }
}

}  // namespace

Result<InitConnection> InitConnection::open(const fs::path& directory,
                                            std::chrono::milliseconds answer_time) {
  BATON_TRY(const Fd folder, sys::open_file(directory, O_PATH | O_DIRECTORY));
  BATON_TRY(const sockaddr_un address, control_address(folder));
  BATON_TRY(Fd socket, new_socket(answer_time));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return InitConnection(std::move(socket));
  if (errno == EAGAIN) return fail(ErrorCode::TimedOut, "the sandbox's pid 1 does not answer");
  if (errno == ECONNREFUSED || errno == ENOENT)
    return fail(ErrorCode::NotFound, "the sandbox has ended");
  return fail_errno("connect to the sandbox's pid 1");
}

Result<InitReply> InitConnection::ask(const init::Request& request, int fd) {
  BATON_CHECK(send_request(socket_.get(), request, fd));
  InitReply answer;
  BATON_TRY(const init::Reply reply, receive_reply(socket_.get(), &answer.fds));
  if (reply.code != init::Code::Ok) {
    std::string text = reply.text;
    if (reply.error_number != 0) text += fmt::format(": {}", std::strerror(reply.error_number));
    return fail(code_of(reply.code), std::move(text));
  }
  std::copy(std::begin(reply.values), std::end(reply.values), answer.values);
  return answer;
}

Status InitConnection::tell(const init::Request& request) {
  return send_request(socket_.get(), request, -1);
}

Result<pid_t> InitConnection::peer_pid() const {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    return fail_errno("SO_PEERCRED");
  if (credentials.pid <= 0)
    return fail(ErrorCode::NotFound, "the sandbox is not in this pid namespace");
  return credentials.pid;
}

Result<InitReply> ask_init(const fs::path& directory, const init::Request& request, int fd,
                           std::chrono::milliseconds answer_time) {
  BATON_TRY(InitConnection connection, InitConnection::open(directory, answer_time));
  return connection.ask(request, fd);
}

Result<Fd> bind_control_socket(const fs::path& directory) {
  BATON_TRY(const Fd folder, sys::open_file(directory, O_PATH | O_DIRECTORY));
  BATON_TRY(const sockaddr_un address, control_address(folder));
  BATON_TRY(Fd socket, new_socket(kAnswerTime));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(fmt::format("bind {}/control.sock", directory.string()));
  return socket;
}

}  // namespace baton::agent
