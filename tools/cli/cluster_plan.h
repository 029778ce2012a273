// What runs in a local cluster, and with which command lines.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::cli {

struct ClusterOptions {
  std::string model;
  int targets = 1;
  int threads = 0;  // of each target; 0: the machine's cores divided among the targets
  std::string host = "127.0.0.1";  // a name, IPv4 or IPv6; brackets around the latter may be there
  // Of the gateway; empty: its defaults.
  std::string api_key_file, cors_origin, allowed_hosts, request_timeout, tls_cert, tls_key;
  int http_port = 8080;  // 0: a free one
  int grpc_port = 8090;  // 0: a free one
  std::string state_dir = ".tutti";
  std::string binary_dir;  // where tutti-* lie
  std::string kv = "f16";  // type of the KV cache
  // Who guesses ahead: none, ngram, self (the model without some of its layers), or a model's file.
  std::string draft = "none";
  int drafts = 1;   // processes of such a model
  int experts = 0;  // expert shards; 0: experts run in the targets
  // Those that targets run themselves all the same, as moe::ExpertSet; kShare: as many of each
  // layer as a shard has.
  std::string local_experts;
  static constexpr char kShare[] = "share";
  int ffn_slices = 0;                    // cuts a dense model's FFN into experts
  double audit = 0.001;                  // the router's --audit
  std::string served_model_name;         // comma separated; "": the name in the model's file
  std::vector<std::string> target_args;  // passed on to every target
  double ready_timeout_s = 120;
  double grace_s = 10;  // for a clean end, before SIGKILL

  bool HasDraftModel() const { return draft != "none" && draft != "ngram"; }
  bool IsSelfDraft() const { return draft == "self"; }
  const std::string& DraftModel() const { return IsSelfDraft() ? model : draft; }
  // Errors: INVALID_ARGUMENT naming the flag
  absl::Status Validate() const;
};

// Where a running cluster answers.
struct ClusterAddresses {
  std::string http, grpc;
};

// A process of bin/tutti-`kind`, without what every process gets (metrics, log).
struct PlannedProcess {
  std::string kind, name;  // "target", "target-0"
  std::string address;     // unix:..., or host:port for the gateway
  std::vector<std::string> args;
};

// "host:port", with an IPv6 address in brackets.
std::string HostPort(const std::string& host, int port);

// The address of a process by its name.
std::string SocketAddress(const std::string& socket_dir, const std::string& name);

// Where the router of a local cluster serves workers and operators.
std::string ClusterSocket(const std::string& socket_dir);

// All processes, the gateway last: they may start in any order, workers go on joining until the
// router is there. REQUIRES: options are valid, and local_experts is not kShare.
std::vector<PlannedProcess> PlanCluster(const ClusterOptions& options,
                                        const ClusterAddresses& addresses,
                                        const std::string& socket_dir);

// One more expert shard.
PlannedProcess PlanExpert(const ClusterOptions& options, const std::string& socket_dir, int index);

}  // namespace tutti::cli
