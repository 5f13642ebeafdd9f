#include "base/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "base/json_writer.h"
#include "base/utf8.h"

namespace millrace {
namespace {

constexpr size_t kTextMax = 1024;     // bytes of one field
constexpr size_t kQueueLines = 8192;  // lines waiting for the sink; then the oldest are dropped

struct LogState {
  std::mutex mutex;  // guards the two pointers while they are set up
  std::shared_ptr<spdlog::details::thread_pool> pool;
  std::shared_ptr<spdlog::logger> logger;
  std::atomic<bool> json{false};
  std::atomic<LogLevel> level{LogLevel::kInfo};
};

// One process has one log; it lives until exit so that late threads may write.
LogState& State() {
  static LogState* state = new LogState;
  return *state;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string Clean(std::string_view text) {
  return ReplaceInvalidUtf8(text.substr(0, kTextMax));
}

// A value as JSON: in both formats, because the JSON form of a text has no raw control characters.
void AppendValue(const LogField& field, std::string& out) {
  if (const auto* text = std::get_if<std::string_view>(&field.value)) {
    AppendJsonString(Clean(*text), out);
  } else if (const auto* integer = std::get_if<int64_t>(&field.value)) {
    AppendJsonInt(*integer, out);
  } else if (const auto* real = std::get_if<double>(&field.value)) {
    AppendJsonDouble(*real, out);
  } else {
    out += std::get<bool>(field.value) ? "true" : "false";
  }
}

std::string FormatLine(bool json, std::string_view event, std::initializer_list<LogField> fields) {
  std::string line;
  if (json) {
    line = "\"msg\":";
    AppendJsonString(Clean(event), line);
  } else {
    line = std::string(event);
  }
  for (const LogField& field : fields) {
    line += json ? "," : " ";
    if (json) {
      AppendJsonString(field.name, line);
      line += ':';
    } else {
      line.append(field.name);
      line += '=';
    }
    AppendValue(field, line);
  }
  return line;
}

}  // namespace

void InitLogging(const LogOptions& options) {
  LogState& state = State();
  std::lock_guard lock(state.mutex);
  state.pool = std::make_shared<spdlog::details::thread_pool>(kQueueLines, 1);
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::async_logger>(
      "millrace", sink, state.pool, spdlog::async_overflow_policy::overrun_oldest);
  // UTC, RFC 3339 with nanoseconds.
  logger->set_pattern(options.json ? R"({"ts":"%Y-%m-%dT%H:%M:%S.%FZ","level":"%l",%v})"
                                   : "%Y-%m-%dT%H:%M:%S.%eZ %L %v",
                      spdlog::pattern_time_type::utc);
  logger->set_level(ToSpdlog(options.level));
  logger->flush_on(spdlog::level::info);
  state.json = options.json;
  state.level = options.level;
  state.logger = std::move(logger);
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  LogState& state = State();
  if (level < state.level.load(std::memory_order_relaxed)) return;
  std::string line = FormatLine(state.json.load(std::memory_order_relaxed), event, fields);
  std::shared_ptr<spdlog::logger> logger;
  {
    std::lock_guard lock(state.mutex);
    logger = state.logger;
  }
  if (logger == nullptr) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  logger->log(ToSpdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

uint64_t LogLinesDropped() {
  LogState& state = State();
  std::lock_guard lock(state.mutex);
  return state.pool == nullptr ? 0 : state.pool->overrun_counter();
}

// Ends the queue's thread after it has written everything; later lines go straight to stderr.
void FlushLogs() {
  LogState& state = State();
  std::shared_ptr<spdlog::logger> logger;
  std::shared_ptr<spdlog::details::thread_pool> pool;
  std::lock_guard lock(state.mutex);
  std::swap(logger, state.logger);
  std::swap(pool, state.pool);
}

}  // namespace millrace
