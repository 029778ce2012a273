// Credentials from TLS flags.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "shared/base/status.h"
#include "shared/rpc/options.h"

namespace tutti::rpc {

// For one address to listen on / to connect to: plain for unix sockets and when TLS is off.
// Errors: INVALID_ARGUMENT  a file is missing, unreadable, empty or no PEM; the message names it
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(
    const std::string& address, const TlsOptions& tls);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(
    const std::string& address, const TlsOptions& tls);

}  // namespace tutti::rpc
