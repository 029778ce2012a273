#include "shared/rpc/tls.h"

#include <fstream>
#include <sstream>

#include "shared/base/strings.h"

namespace tutti::rpc {
namespace {

bool IsUnix(const std::string& address) { return address.rfind("unix:", 0) == 0; }

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (!in || !(text << in.rdbuf())) {
    return absl::InvalidArgumentError(std::string(flag) + ": cannot read \"" + Printable(path) +
                                      "\"");
  }
  std::string pem = text.str();
  if (pem.find("-----BEGIN ") == std::string::npos) {
    return absl::InvalidArgumentError(std::string(flag) + ": \"" + Printable(path) +
                                      "\" is not a PEM file");
  }
  return pem;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(
    const std::string& address, const TlsOptions& tls) {
  if (IsUnix(address) || !tls.AsServer()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      tls.ca_file.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  if (!tls.ca_file.empty()) {
    TUTTI_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem("--tls-ca", tls.ca_file));
  }
  TUTTI_ASSIGN_OR_RETURN(std::string cert, ReadPem("--tls-cert", tls.cert_file));
  TUTTI_ASSIGN_OR_RETURN(std::string key, ReadPem("--tls-key", tls.key_file));
  options.pem_key_cert_pairs.push_back({std::move(key), std::move(cert)});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(
    const std::string& address, const TlsOptions& tls) {
  if (IsUnix(address) || !tls.AsClient()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  TUTTI_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem("--tls-ca", tls.ca_file));
  if (!tls.cert_file.empty()) {
    TUTTI_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadPem("--tls-cert", tls.cert_file));
    TUTTI_ASSIGN_OR_RETURN(options.pem_private_key, ReadPem("--tls-key", tls.key_file));
  }
  return grpc::SslCredentials(options);
}

}  // namespace tutti::rpc
