// Where a command's request is answered: by a model in this process, or by a cluster over gRPC or
// over its OpenAI-compatible API.
#pragma once

#include <memory>
#include <string>

#include "shared/rpc/options.h"
#include "tools/cli/generation.h"
#include "tools/cli/local_model.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// An address as users write it, taken apart.
struct Endpoint {
  std::string address;  // gRPC: "HOST:PORT" or "unix:PATH"; HTTP: "http://HOST:PORT"
  bool http = false;
  rpc::TlsOptions tls;  // its ca_file is also what checks an https server, if given
  std::string api_key;  // HTTP alone: sent as a bearer token when not empty
};
// "http://HOST:PORT" and "https://HOST:PORT", with or without "/v1" behind it, are HTTP; HOST:PORT
// and unix:PATH are gRPC, over TLS when `tls` has an authority. The API key is that of the
// environment variable OPENAI_API_KEY. Errors: INVALID_ARGUMENT naming the flag
absl::StatusOr<Endpoint> ParseEndpoint(const std::string& address, const rpc::TlsOptions& tls);

// --model (in this process), --address, or the cluster of --state-dir.
struct WhereOptions {
  LocalModelOptions local;
  std::string address, state_dir;
  rpc::TlsOptions tls;
};
void AddWhereFlags(CLI::App* app, WhereOptions* options);
// --address and the flags of TLS towards it alone.
void AddAddressFlags(CLI::App* app, std::string* address, rpc::TlsOptions* tls);

// The cluster's endpoint. Errors: NOT_FOUND  no address was given and no cluster runs
absl::StatusOr<Endpoint> ClusterEndpoint(const WhereOptions& options);
// Errors: as above; of a model that cannot be loaded
absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const WhereOptions& options);

}  // namespace tutti::cli
