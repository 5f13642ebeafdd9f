#include "base/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <ctime>
#include <exception>
#include <mutex>

#include "base/clock.h"
#include "base/json_writer.h"
#include "base/utf8.h"

namespace millrace {
namespace {

constexpr size_t kTextMax = 1024;     // bytes of one field
constexpr size_t kQueueLines = 8192;  // lines waiting for the sink; then the oldest are dropped
constexpr std::chrono::seconds kFlushWait{2};

// Writes all of `text` to stderr, in one call where the kernel takes it whole, so that lines of two
// processes on one pipe do not mix. A closed stderr loses the text: there is nobody to tell.
void WriteStderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno != EINTR) return;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
}

// What FlushLogs waits for: the number of flush requests that reached the sink.
struct FlushCount {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t done = 0;
};

FlushCount& Flushes() {
  static FlushCount* count = new FlushCount;  // never freed: a late line may come during exit
  return *count;
}

// Lines come complete with their newline. Thread: the queue's.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    WriteStderr({message.payload.data(), message.payload.size()});
  }
  void flush_() override {
    FlushCount& count = Flushes();
    std::lock_guard lock(count.mutex);
    ++count.done;
    count.changed.notify_all();
  }
};

// The registry of spdlog owns the logger until exit; null before InitLogging.
std::atomic<spdlog::logger*> g_logger{nullptr};
std::atomic<bool> g_json{false};
std::atomic<LogLevel> g_level{LogLevel::kInfo};

// RFC 3339 in UTC with microseconds.
void AppendTime(UnixNanos now, std::string& out) {
  const time_t seconds = static_cast<time_t>(now / kNanosPerSecond);
  tm parts;
  gmtime_r(&seconds, &parts);
  std::array<char, 40> text;
  const size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  out.append(text.data(), size);
  std::snprintf(text.data(), text.size(), ".%06dZ",
                static_cast<int>(now % kNanosPerSecond / kNanosPerMicro));
  out += text.data();
}

// A text as a JSON string, cut at a character's border. DEL and the C1 controls (U+0080..U+009F)
// are legal in JSON, but a terminal obeys them: they become escapes too.
void AppendText(std::string_view text, std::string& out) {
  if (text.size() > kTextMax) {
    text = text.substr(0, kTextMax);
    text = text.substr(0, CompleteUtf8Prefix(text));
  }
  std::string quoted;
  AppendJsonString(ReplaceInvalidUtf8(text), quoted);
  for (size_t i = 0; i < quoted.size(); ++i) {
    const uint8_t c = static_cast<uint8_t>(quoted[i]);
    const bool two = c == 0xC2 && static_cast<uint8_t>(quoted[i + 1]) < 0xA0;
    if (c != 0x7F && !two) {
      out.push_back(quoted[i]);
      continue;
    }
    std::array<char, 8> escape;
    std::snprintf(escape.data(), escape.size(), "\\u%04x",
                  two ? static_cast<uint8_t>(quoted[++i]) : c);
    out += escape.data();
  }
}

void AppendValue(const LogField& field, std::string& out) {
  if (const auto* text = std::get_if<std::string_view>(&field.value)) {
    AppendText(*text, out);
  } else if (const auto* integer = std::get_if<int64_t>(&field.value)) {
    AppendJsonInt(*integer, out);
  } else if (const auto* real = std::get_if<double>(&field.value)) {
    AppendJsonDouble(*real, out);
  } else {
    out += std::get<bool>(field.value) ? "true" : "false";
  }
}

std::string_view LevelName(LogLevel level) {
  static constexpr std::array<std::string_view, 4> kNames = {"debug", "info", "warning", "error"};
  return kNames[static_cast<size_t>(level)];
}

// One line with its newline. Text: `time level event name=value ...`, texts quoted as in JSON.
std::string FormatLine(LogLevel level, std::string_view event,
                       std::initializer_list<LogField> fields) {
  const bool json = g_json.load(std::memory_order_relaxed);
  std::string line = json ? "{\"ts\":\"" : "";
  AppendTime(RealClock().UnixNow(), line);
  line += json ? "\",\"level\":\"" : " ";
  line += LevelName(level);
  line += json ? "\",\"msg\":" : " ";
  std::string name;
  AppendText(event, name);
  // Event names are ours and plain: quotes would only be noise to people. Escapes stay.
  line += json ? std::string_view(name) : std::string_view(name).substr(1, name.size() - 2);
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
  line += json ? "}\n" : "\n";
  return line;
}

}  // namespace

void InitLogging(const LogOptions& options) {
  g_json = options.json;
  g_level = options.level;
  if (g_logger.load() != nullptr) return;
  try {
    spdlog::init_thread_pool(kQueueLines, 1);
    auto logger = spdlog::create_async_nb<StderrSink>("millrace");
    // The level is ours to judge, before a line is made.
    logger->set_level(spdlog::level::trace);
    g_logger = logger.get();
  } catch (const std::exception& error) {
    // No thread to be had: lines keep going to stderr directly.
    Log(LogLevel::kError, "log_queue_failed", {{"error", error.what()}});
  }
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  const std::string line = FormatLine(level, event, fields);
  spdlog::logger* logger = g_logger.load(std::memory_order_acquire);
  if (logger == nullptr) return WriteStderr(line);
  logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

uint64_t LogLinesDropped() {
  if (g_logger.load() == nullptr) return 0;
  const auto pool = spdlog::thread_pool();
  return pool == nullptr ? 0 : pool->overrun_counter();
}

// A request to flush stands in the queue behind every line that came before. It may itself be
// dropped when lines pour in, or wait for a reader of stderr that never reads: hence the bound.
void FlushLogs() {
  spdlog::logger* logger = g_logger.load(std::memory_order_acquire);
  if (logger == nullptr) return;
  FlushCount& count = Flushes();
  std::unique_lock lock(count.mutex);
  const uint64_t before = count.done;
  logger->flush();
  count.changed.wait_for(lock, kFlushWait, [&] { return count.done > before; });
}

}  // namespace millrace
