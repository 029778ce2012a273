// TUTTI_CHECK: for broken invariants of ours only. Nothing that came from a file, a request or a
// peer may reach one; such input gets an absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define TUTTI_CHECK(cond)                                                               \
  do {                                                                                  \
    if (!(cond)) [[unlikely]] {                                                         \
      std::fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #cond); \
      std::abort();                                                                     \
    }                                                                                   \
  } while (0)

#ifdef NDEBUG
#define TUTTI_DCHECK(cond) ((void)0)
#else
#define TUTTI_DCHECK(cond) TUTTI_CHECK(cond)
#endif
