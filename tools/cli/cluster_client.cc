#include "tools/cli/cluster_client.h"

#include <httplib.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cli {
namespace {

// Where a server that listens on every address is found.
std::string Reachable(const std::string& host) {
  return host == "0.0.0.0" ? "127.0.0.1" : host == "::" ? "::1" : host;
}

}  // namespace

bool GrpcHealthy(const std::string& address, int timeout_ms) {
  const auto channel = rpc::OpenChannel(address);
  if (!channel.ok()) return false;
  auto stub = grpc::health::v1::Health::NewStub(*channel);
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, timeout_ms);
  grpc::health::v1::HealthCheckResponse response;
  return stub->Check(&context, {}, &response).ok() &&
         response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

bool GrpcAnswers(const std::string& address, int timeout_ms) {
  const auto channel = rpc::OpenChannel(address);
  if (!channel.ok()) return false;
  auto stub = grpc::health::v1::Health::NewStub(*channel);
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, timeout_ms);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::StatusCode code = stub->Check(&context, {}, &response).error_code();
  return code != grpc::StatusCode::DEADLINE_EXCEEDED && code != grpc::StatusCode::UNAVAILABLE;
}

bool HttpHealthy(const std::string& host_port, int timeout_ms) {
  std::string host;
  int port = 0;
  if (!SplitHostPort(host_port, &host, &port).ok()) return false;
  httplib::Client client(Reachable(host), port);
  client.set_connection_timeout(0, timeout_ms * 1000);
  client.set_read_timeout(0, timeout_ms * 1000);
  const auto response = client.Get("/health");
  return response && response->status == 200;
}

bool HttpAnswers(const std::string& host_port, int timeout_ms) {
  std::string host;
  int port = 0;
  if (!SplitHostPort(host_port, &host, &port).ok()) return false;
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (::getaddrinfo(Reachable(host).c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    return false;
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool begun =
      fd >= 0 && (::connect(fd, found->ai_addr, found->ai_addrlen) == 0 || errno == EINPROGRESS);
  ::freeaddrinfo(found);
  pollfd wait = {.fd = fd, .events = POLLOUT, .revents = 0};
  bool answers = begun && ::poll(&wait, 1, timeout_ms) == 1;
  if (answers) {
    const std::string get =
        "GET /health HTTP/1.1\r\nHost: " + host_port + "\r\nConnection: close\r\n\r\n";
    wait.events = POLLIN;
    answers =
        ::send(fd, get.data(), get.size(), MSG_NOSIGNAL) > 0 && ::poll(&wait, 1, timeout_ms) == 1;
  }
  if (fd >= 0) ::close(fd);
  return answers;
}

void AddFleetAddressFlags(CLI::App* app, FleetAddress* fleet) {
  app->add_option("--cluster-address", fleet->address,
                  "Ask this router's --cluster-listen instead of the state dir's cluster")
      ->type_name("ADDRESS");
  rpc::AddClusterTokenFlag(app, &fleet->tls);
  app->add_option("--cluster-tls-ca", fleet->tls.ca_file, "PEM authority of that router")
      ->type_name("FILE");
  app->add_option("--cluster-tls-cert", fleet->tls.cert_file, "PEM certificate to show it")
      ->type_name("FILE");
  app->add_option("--cluster-tls-key", fleet->tls.key_file, "PEM private key")->type_name("FILE");
}

absl::StatusOr<fleet::v1::GetFleetResponse> GetFleet(const FleetAddress& router, int timeout_ms,
                                                     bool with_experts) {
  TUTTI_ASSIGN_OR_RETURN(const auto channel, rpc::OpenChannel(router.address, {.tls = router.tls}));
  auto stub = fleet::v1::FleetService::NewStub(channel);
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, timeout_ms);
  fleet::v1::GetFleetRequest request;
  request.set_with_experts(with_experts);
  fleet::v1::GetFleetResponse response;
  const auto status = rpc::FromGrpc(stub->GetFleet(&context, request, &response));
  if (!status.ok()) return Annotate(status, "router " + router.address);
  return response;
}

absl::StatusOr<fleet::v1::PinExpertsResponse> PinExperts(
    const FleetAddress& router, const fleet::v1::PinExpertsRequest& request, int timeout_ms) {
  TUTTI_ASSIGN_OR_RETURN(const auto channel, rpc::OpenChannel(router.address, {.tls = router.tls}));
  auto stub = fleet::v1::FleetService::NewStub(channel);
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, timeout_ms);
  fleet::v1::PinExpertsResponse response;
  TUTTI_RETURN_IF_ERROR(rpc::FromGrpc(stub->PinExperts(&context, request, &response)));
  return response;
}

absl::StatusOr<int> CountServableModels(const Endpoint& router, int timeout_ms) {
  TUTTI_ASSIGN_OR_RETURN(const auto channel, rpc::OpenChannel(router.address, {.tls = router.tls}));
  auto stub = generation::v1::GenerationService::NewStub(channel);
  grpc::ClientContext context;
  rpc::SetDeadlineMs(&context, timeout_ms);
  generation::v1::ListModelsResponse response;
  const auto status = rpc::FromGrpc(stub->ListModels(&context, {}, &response));
  if (!status.ok()) return Annotate(status, "router " + router.address);
  int count = 0;
  for (const auto& m : response.models()) count += m.ready_decoders() > 0 ? 1 : 0;
  return count;
}

absl::Status SplitHostPort(const std::string& address, std::string* host, int* port) {
  const size_t colon = address.rfind(':');
  if (colon != address.npos && colon > 0) {
    *host = address.substr(0, colon);
    if (host->size() > 2 && host->front() == '[' && host->back() == ']')
      *host = host->substr(1, host->size() - 2);
    const char *begin = address.data() + colon + 1, *end = address.data() + address.size();
    const auto [stop, error] = std::from_chars(begin, end, *port);
    if (error == std::errc() && stop == end && *port > 0 && *port < 65536) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is not an address; HOST:PORT"));
}

}  // namespace tutti::cli
