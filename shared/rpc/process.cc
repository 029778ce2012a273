#include "shared/rpc/process.h"

#include <grpc/support/log.h>

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

}  // namespace

void InitGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    gpr_set_log_function(LogFromGrpc);
  });
}

}  // namespace tutti::rpc
