#include "shared/rpc/process.h"

#include <grpc/support/log.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <mutex>
#include <string>

#include "absl/synchronization/mutex.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"

namespace tutti::rpc {
namespace {

// gRPC's errors are about peers mostly (a failed handshake), so they are warnings here.
void LogFromGrpc(gpr_log_func_args* args) {
  const auto level = args->severity == GPR_LOG_SEVERITY_ERROR ? telemetry::Level::kWarning
                                                              : telemetry::Level::kDebug;
  if (!telemetry::LogEnabled(level)) return;
  const std::string_view file = args->file;
  telemetry::Log(
      level, "grpc",
      {{"at", std::string(file.substr(file.rfind('/') + 1)) + ":" + std::to_string(args->line)},
       {"message", Printable(args->message, 500)}});
}

// A server without an address that is never freed is one user of the callback queue who never goes.
void KeepCallbackQueue() {
  static grpc::CallbackGenericService* const service = new grpc::CallbackGenericService();
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(service);
  static grpc::Server* const server = builder.BuildAndStart().release();
  (void)server;
}

}  // namespace

void InitGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    gpr_set_log_function(LogFromGrpc);
    KeepCallbackQueue();
  });
}

}  // namespace tutti::rpc
