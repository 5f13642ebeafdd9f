#pragma once
// Checks for states that are impossible unless this program has a bug. Client input never reaches
// one: it is validated before (docs/adr/0003-error-shapes.md).

#include <cstdio>
#include <cstdlib>

namespace millrace {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  std::fflush(stderr);
  std::abort();
}
}  // namespace millrace

// Ends the process when `condition` is false, in release builds too.
#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) [[unlikely]]                             \
      ::millrace::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

// As CHECK, in debug builds only. The condition is compiled but not evaluated in release builds.
#ifdef NDEBUG
#define DCHECK(condition)       \
  do {                          \
    if (false && (condition)) { \
    }                           \
  } while (false)
#else
#define DCHECK(condition) CHECK(condition)
#endif
