#include "base/cpu_facts.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace millrace {
namespace {

std::string ReadText(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Text(absl::string_view text) {
  return std::string(text.data(), text.size());
}

}  // namespace

bool CpuModel::Has(std::string_view flag) const {
  return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

std::vector<std::string> CpuModel::KernelFlags() const {
  constexpr std::string_view kPrefixes[] = {"avx", "amx", "fma", "f16c"};
  std::vector<std::string> out;
  for (const std::string& flag : flags) {
    for (const std::string_view prefix : kPrefixes) {
      if (flag.rfind(prefix, 0) == 0) out.push_back(flag);
    }
  }
  return out;
}

CpuModel ParseCpuModel(std::string_view proc_cpuinfo) {
  CpuModel cpu;
  const absl::string_view text(proc_cpuinfo.data(), proc_cpuinfo.size());
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    // The first CPU ends with an empty line.
    if (absl::StripAsciiWhitespace(line).empty() && !cpu.flags.empty()) break;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    const absl::string_view key = absl::StripAsciiWhitespace(parts.first);
    const absl::string_view value = absl::StripAsciiWhitespace(parts.second);
    if (key == "model name") cpu.name = Text(value);
    if (key == "cpu family") cpu.family = Text(value);
    if (key == "model") cpu.model = Text(value);
    if (key == "flags") cpu.flags = absl::StrSplit(value, ' ', absl::SkipEmpty());
  }
  return cpu;
}

CpuModel ReadCpuModel() {
  return ParseCpuModel(ReadText("/proc/cpuinfo"));
}

CpuTicks ParseCpuTicks(std::string_view proc_stat) {
  CpuTicks ticks;
  const absl::string_view text(proc_stat.data(), proc_stat.size());
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (fields.empty() || fields[0] != "cpu") continue;
    // user nice system idle iowait irq softirq steal (proc(5)); guest time is in user already.
    for (size_t i = 1; i < fields.size() && i <= 8; ++i) {
      int64_t value = 0;
      if (!absl::SimpleAtoi(fields[i], &value)) return {};
      ticks.all += value;
      if (i == 4 || i == 5) ticks.idle += value;
      if (i == 8) ticks.steal = value;
    }
    return ticks;
  }
  return ticks;
}

CpuTicks ReadCpuTicks() {
  return ParseCpuTicks(ReadText("/proc/stat"));
}

double ShareOf(int64_t CpuTicks::*part, const CpuTicks& begin, const CpuTicks& end) {
  const int64_t all = end.all - begin.all;
  return all <= 0 ? 0 : static_cast<double>(end.*part - begin.*part) / static_cast<double>(all);
}

}  // namespace millrace
