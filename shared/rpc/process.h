// What a process sets up once before it touches gRPC.
#pragma once

namespace tutti::rpc {

// Idempotent and thread-safe; servers and channels call it by themselves.
//
// - Abseil's deadlock detector is switched off: Debian builds Abseil with its debug checks, and
// then
//   every lock inside gRPC walks a graph and may unwind the stack.
// - gRPC's own messages go into our log.
// - The queue of gRPC's callback threads lives as long as the process. gRPC 1.51 frees it with the
//   last channel or server that uses it, sometimes while one of its threads is still inside, and
//   then stops the process (about once in a thousand times).
void InitGrpc();

}  // namespace tutti::rpc
