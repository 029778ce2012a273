#include "tools/cli/where.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

#include "shared/base/strings.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/state_dir.h"

namespace tutti::cli {

absl::StatusOr<Endpoint> ParseEndpoint(const std::string& address, const rpc::TlsOptions& tls) {
  const auto error = [&](const std::string& what) {
    return absl::InvalidArgumentError("--address: " + what);
  };
  if (tls.cert_file.empty() != tls.key_file.empty())
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  Endpoint e{.address = address, .tls = tls};
  const size_t scheme = address.find("://");
  if (scheme == address.npos || address.starts_with("unix:")) {
    if (!tls.cert_file.empty() && !tls.AsClient())
      return absl::InvalidArgumentError("--tls-cert: needs --tls-ca, the authority of the router");
    return e;
  }
  e.http = address.starts_with("http://") || address.starts_with("https://");
  const std::string known = "; HOST:PORT, unix:PATH, http://HOST:PORT or https://HOST:PORT";
  if (!e.http)
    return error("\"" + Printable(address.substr(0, scheme + 3)) + "\" is not known" + known);
  if (address.starts_with("http://") && tls.AsClient())
    return error("http:// is not encrypted; --tls-ca goes with https://");
  // The base URLs that clients of the API are given end in /v1.
  while (e.address.ends_with('/')) e.address.pop_back();
  if (e.address.ends_with("/v1")) e.address.resize(e.address.size() - 3);
  const std::string host = e.address.substr(std::min(scheme + 3, e.address.size()));
  if (host.empty() || host.find('/') != host.npos)
    return error("\"" + Printable(address) + "\" has a path or no host" + known);
  if (const char* key = std::getenv("OPENAI_API_KEY"); key != nullptr) e.api_key = key;
  return e;
}

void AddAddressFlags(CLI::App* app, std::string* address, rpc::TlsOptions* tls) {
  app->add_option("--address", *address,
                  "Ask the router at HOST:PORT (or unix:PATH), or the OpenAI-compatible API at "
                  "http://HOST:PORT or https://HOST:PORT")
      ->type_name("ADDRESS")
      ->group("Where");
  app->add_option("--tls-ca", tls->ca_file,
                  "PEM authority of the server's certificate: TLS towards it. For https:// without "
                  "it: the authorities of this machine")
      ->type_name("FILE")
      ->group("Where");
  app->add_option("--tls-cert", tls->cert_file,
                  "PEM certificate to show the server; with --tls-key")
      ->type_name("FILE")
      ->group("Where");
  app->add_option("--tls-key", tls->key_file, "PEM key of --tls-cert")
      ->type_name("FILE")
      ->group("Where");
  app->add_option("--tls-server-name", tls->server_name,
                  "Name expected in the router's certificate, if not its host")
      ->type_name("NAME")
      ->group("Where");
}

void AddWhereFlags(CLI::App* app, WhereOptions* o) {
  CLI::Option* model =
      app->add_option("--model", o->local.model, "Run this model in one process, without services")
          ->group("Where");
  AddAddressFlags(app, &o->address, &o->tls);
  app->get_option("--address")->excludes(model);
  AddStateDirFlag(app, &o->state_dir);
  app->get_option("--state-dir")->group("Where");
  AddLocalModelFlags(app, &o->local);
  AddDraftFlag(app, &o->local);
  for (const char* name : {"--kv", "--threads", "--cpu", "--prefill-chunk", "--draft"})
    app->get_option(name)->group("Where");
}

absl::StatusOr<Endpoint> ClusterEndpoint(const WhereOptions& o) {
  if (!o.address.empty()) return ParseEndpoint(o.address, o.tls);
  if (!StateLock::IsHeld(o.state_dir)) {
    return absl::NotFoundError(
        "no cluster runs in " + o.state_dir +
        "; 'tutti up --model FILE' starts one, --address names one elsewhere, "
        "--model FILE runs a model without a cluster");
  }
  TUTTI_ASSIGN_OR_RETURN(const ClusterState state, ReadClusterState(o.state_dir));
  return Endpoint{.address = state.router_unix};
}

absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const WhereOptions& o) {
  if (o.local.model.empty()) {
    TUTTI_ASSIGN_OR_RETURN(const Endpoint endpoint, ClusterEndpoint(o));
    return endpoint.http ? MakeHttpGenerator(endpoint) : MakeRemoteGenerator(endpoint);
  }
  TUTTI_ASSIGN_OR_RETURN(auto model, LoadLocalModel(o.local));
  return MakeLocalGenerator(std::move(model), o.local);
}

}  // namespace tutti::cli
