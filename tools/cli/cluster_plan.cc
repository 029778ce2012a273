#include "tools/cli/cluster_plan.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shared/base/cores.h"
#include "shared/rpc/model_names.h"

namespace tutti::cli {

absl::Status ClusterOptions::Validate() const {
  const auto error = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (model.empty()) return error("--model: a .gguf file or a model folder is needed");
  if (targets < 1 || targets > 64) return error("--targets: ", targets, "; 1 to 64");
  if (experts < 0 || experts > 64) return error("--experts: ", experts, "; 0 to 64");
  if (ffn_slices < 0 || ffn_slices > 65536)
    return error("--ffn-slices: ", ffn_slices, "; 0 to 65536");
  if (threads < 0 || threads > 1024)
    return error("--threads: ", threads, "; 1 to 1024, or 0 for all cores");
  for (const auto& [flag, port] :
       {std::pair("--http", http_port), std::pair("--grpc", grpc_port)}) {
    if (port < 0 || port > 65535)
      return error(flag, ": ", port, "; a port from 1 to 65535, or 0 for a free one");
  }
  if (http_port != 0 && http_port == grpc_port)
    return error("--grpc: the same port as --http, ", http_port);
  if (tls_cert.empty() != tls_key.empty())
    return error(tls_cert.empty() ? "--tls-key: needs --tls-cert" : "--tls-cert: needs --tls-key");
  for (const auto& [flag, file] :
       {std::pair("--api-key-file", &api_key_file), std::pair("--tls-cert", &tls_cert),
        std::pair("--tls-key", &tls_key)}) {
    if (!file->empty() && !std::ifstream(*file).good())
      return error(flag, ": ", *file, ": cannot be read");
  }
  if (!served_model_name.empty())
    TUTTI_RETURN_IF_ERROR(rpc::CheckModelNames(absl::StrSplit(served_model_name, ',')));
  if (drafts < 1 || drafts > 64) return error("--drafts: ", drafts, "; 1 to 64");
  if (!(ready_timeout_s > 0) || !std::isfinite(ready_timeout_s))
    return error("--ready-timeout: more than 0 seconds");
  if (!(grace_s >= 0) || !std::isfinite(grace_s)) return error("--grace: 0 or more seconds");
  return absl::OkStatus();
}

std::string HostPort(const std::string& host, int port) {
  const bool bare_ipv6 = host.find(':') != host.npos && host.front() != '[';
  return bare_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

std::string SocketAddress(const std::string& socket_dir, const std::string& name) {
  return "unix:" + socket_dir + "/" + name + ".sock";
}

std::string ClusterSocket(const std::string& socket_dir) {
  return SocketAddress(socket_dir, "router-cluster");
}

PlannedProcess PlanExpert(const ClusterOptions& options, const std::string& socket_dir, int index) {
  const std::string name = absl::StrCat("expert-", index),
                    address = SocketAddress(socket_dir, name);
  return {"expert",
          name,
          address,
          {"--model", options.model, "--listen", address, "--join", ClusterSocket(socket_dir),
           "--ffn-slices", absl::StrCat(options.ffn_slices)}};
}

std::vector<PlannedProcess> PlanCluster(const ClusterOptions& options,
                                        const ClusterAddresses& addresses,
                                        const std::string& socket_dir) {
  const std::string router = SocketAddress(socket_dir, "router"),
                    cluster = ClusterSocket(socket_dir);
  const std::string threads = absl::StrCat(
      options.threads != 0 ? options.threads : std::max(1, UsableCores() / options.targets));
  std::vector<PlannedProcess> all;
  all.push_back({"router",
                 "router",
                 router,
                 {"--listen", router, "--listen", addresses.grpc, "--cluster-listen", cluster,
                  "--audit", absl::StrCat(options.audit)}});
  for (int i = 0; i < options.experts; ++i) all.push_back(PlanExpert(options, socket_dir, i));

  for (int i = 0; i < options.targets; ++i) {
    const std::string name = absl::StrCat("target-", i), address = SocketAddress(socket_dir, name);
    std::vector<std::string> args = {
        "--model",  options.model, "--threads", threads,
        "--listen", address,       "--join",    cluster,
        "--kv",     options.kv,    "--draft",   options.draft == "ngram" ? "ngram" : "none"};
    if (options.experts > 0) args.insert(args.end(), {"--experts", "router"});
    if (!options.local_experts.empty())
      args.insert(args.end(), {"--local-experts", options.local_experts});
    args.insert(args.end(), {"--ffn-slices", absl::StrCat(options.ffn_slices)});
    if (!options.served_model_name.empty())
      args.insert(args.end(), {"--served-model-name", options.served_model_name});
    args.insert(args.end(), options.target_args.begin(), options.target_args.end());
    all.push_back({"target", name, address, std::move(args)});
  }
  for (int i = 0; options.HasDraftModel() && i < options.drafts; ++i) {
    const std::string name = absl::StrCat("draft-", i), address = SocketAddress(socket_dir, name);
    std::vector<std::string> args = {
        "--model", options.DraftModel(), "--for", options.model, "--threads",
        threads,   "--listen",           address, "--join",      cluster};
    if (options.IsSelfDraft()) args.insert(args.end(), {"--skip-layers", "auto"});
    all.push_back({"draft", name, address, std::move(args)});
  }
  const std::string tokenizer = SocketAddress(socket_dir, "tokenizer");
  all.push_back({"tokenizer",
                 "tokenizer",
                 tokenizer,
                 {"--model", options.model, "--listen", tokenizer, "--join", cluster}});
  std::vector<std::string> gateway = {"--router", router, "--http", addresses.http};
  for (const auto& [flag, value] :
       {std::pair("--api-key-file", &options.api_key_file),
        std::pair("--cors-origin", &options.cors_origin),
        std::pair("--allowed-hosts", &options.allowed_hosts),
        std::pair("--request-timeout", &options.request_timeout),
        std::pair("--tls-cert", &options.tls_cert), std::pair("--tls-key", &options.tls_key)}) {
    if (!value->empty()) gateway.insert(gateway.end(), {flag, *value});
  }
  all.push_back({"gateway", "gateway", addresses.http, std::move(gateway)});
  return all;
}

}  // namespace tutti::cli
