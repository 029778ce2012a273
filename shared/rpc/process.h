// What a process sets up once before it touches gRPC.
#pragma once

namespace tutti::rpc {

// Idempotent and thread-safe; servers and channels call it by themselves.
//
// - Abseil's deadlock detector is switched off: Debian builds Abseil with its debug checks, and
// then
//   every lock inside gRPC walks a graph and may unwind the stack.
// - gRPC's own messages go into our log.
void InitGrpc();

}  // namespace tutti::rpc
