#pragma once
// Log lines: one event name and typed fields, as text for people or JSON for machines. Never a
// prompt, never a key. Writing does not block the caller: a full buffer drops and counts.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

namespace millrace {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  std::string_view name;
  std::variant<std::string_view, int64_t, double, bool> value;
};

struct LogOptions {
  bool json = false;
  LogLevel level = LogLevel::kInfo;
};

// Call once in main before threads start; without it lines go to stderr as text.
void InitLogging(const LogOptions& options);
// Thread: any. Text values are escaped (no raw newline or control character reaches the sink) and
// cut at 1,024 bytes.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});
// Lines lost because the buffer was full.
uint64_t LogLinesDropped();
// Writes what is buffered; for shutdown.
void FlushLogs();

}  // namespace millrace
