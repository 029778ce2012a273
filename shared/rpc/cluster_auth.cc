#include "shared/rpc/cluster_auth.h"

#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpcpp/security/auth_metadata_processor.h>

#include <atomic>
#include <string_view>

#include "shared/base/secret.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"

namespace tutti::rpc {
namespace {

constexpr std::string_view kHealth = "/grpc.health.v1.Health/";
constexpr char kRefused[] =
    "this listener is for processes of the cluster: call it with --cluster-token-file (metadata "
    "tutti-cluster-token)";

std::atomic<int64_t> refusals{0};

// Whether the call may go on; counts and logs those that may not.
bool Allowed(const std::string& token, std::string_view path, std::string_view shown) {
  if (path.substr(0, kHealth.size()) == kHealth) return true;
  if (SameSecret(token, shown)) return true;
  // Strangers must not fill the log: 1, 2, 4, 8, ... are said.
  const int64_t n = ++refusals;
  if ((n & (n - 1)) == 0) {
    telemetry::Log(telemetry::Level::kWarning, "cluster/refused",
                   {{"method", Printable(path, 100)},
                    {"why", shown.empty() ? "no token" : "another token"},
                    {"so_far", std::to_string(n)}});
  }
  return false;
}

std::string_view View(const grpc_slice& s) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(s)), GRPC_SLICE_LENGTH(s)};
}

// gRPC's C++ API asks only TLS credentials for metadata; its C API asks any.
class PlainTokenCredentials final : public grpc::ServerCredentials {
 public:
  explicit PlainTokenCredentials(const std::string& token) : token_(token) {}
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    grpc_server_credentials* credentials = grpc_insecure_server_credentials_create();
    grpc_auth_metadata_processor processor = {};
    processor.process = &Process;
    processor.destroy = [](void* state) { delete static_cast<std::string*>(state); };
    processor.state = new std::string(token_);
    grpc_server_credentials_set_auth_metadata_processor(credentials, processor);
    const int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return port;
  }

  static void Process(void* state, grpc_auth_context*, const grpc_metadata* metadata, size_t count,
                      grpc_process_auth_metadata_done_cb done, void* user_data) {
    std::string_view path, shown;
    const grpc_metadata* consumed = nullptr;
    for (size_t i = 0; i < count; ++i) {
      const std::string_view key = View(metadata[i].key);
      if (key == ":path") path = View(metadata[i].value);
      if (key == kClusterTokenKey) {
        shown = View(metadata[i].value);
        consumed = &metadata[i];
      }
    }
    const bool ok = Allowed(*static_cast<std::string*>(state), path, shown);
    done(user_data, ok ? consumed : nullptr, ok && consumed != nullptr ? 1 : 0, nullptr, 0,
         ok ? GRPC_STATUS_OK : GRPC_STATUS_UNAUTHENTICATED, ok ? nullptr : kRefused);
  }

  const std::string token_;
};

class TokenProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit TokenProcessor(const std::string& token) : token_(token) {}
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext*, OutputMetadata* consumed,
                       OutputMetadata*) override {
    const auto text = [&](const char* key) {
      const auto it = metadata.find(key);
      return it == metadata.end() ? std::string_view()
                                  : std::string_view(it->second.data(), it->second.size());
    };
    const std::string_view shown = text(kClusterTokenKey);
    if (!Allowed(token_, text(":path"), shown))
      return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, kRefused);
    if (!shown.empty()) consumed->emplace(kClusterTokenKey, std::string(shown));
    return grpc::Status::OK;
  }

 private:
  const std::string token_;
};

class AddToken final : public grpc::experimental::Interceptor {
 public:
  explicit AddToken(const std::string* token) : token_(token) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA))
      methods->GetSendInitialMetadata()->emplace(kClusterTokenKey, *token_);
    methods->Proceed();
  }

 private:
  const std::string* const token_;  // the factory's, which the channel keeps
};

class AddTokenFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit AddTokenFactory(const std::string& token) : token_(token) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new AddToken(&token_);
  }

 private:
  const std::string token_;
};

}  // namespace

absl::Status CheckClusterListener(const ServiceOptions& options, const char* listen_flag) {
  const bool known = !options.tls.cluster_token.empty() || options.insecure_cluster ||
                     (!options.tls.cert_file.empty() && !options.tls.ca_file.empty());
  for (const std::string& address : options.listen) {
    if (known || address.rfind("unix:", 0) == 0) continue;
    return absl::InvalidArgumentError(
        std::string(listen_flag) + ": " + Printable(address) +
        " is TCP, and whoever reaches it could act as a part of the cluster: give the cluster's "
        "secret with --cluster-token-file, certificates (mTLS), or a unix:PATH; "
        "--insecure-cluster lets everybody in");
  }
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> TokenServerCredentials(const std::string& token) {
  return std::make_shared<PlainTokenCredentials>(token);
}

void RequireToken(const std::string& token, grpc::ServerCredentials* credentials) {
  credentials->SetAuthMetadataProcessor(std::make_shared<TokenProcessor>(token));
}

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> TokenInterceptor(
    const std::string& token) {
  return std::make_unique<AddTokenFactory>(token);
}

int64_t NumTokenRefusals() { return refusals; }

}  // namespace tutti::rpc
