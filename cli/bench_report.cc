#include "cli/bench_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace millrace::cli {
namespace {

// The part of `limit` that is used; nothing known of the limit is zero.
double Share(double rate, double limit) {
  return limit > 0 ? rate / limit : 0;
}

// "62 %", or "-" where the limit was not probed.
std::string Percent(double rate, double limit) {
  return limit > 0 ? absl::StrFormat("%.0f %%", 100 * rate / limit) : "-";
}

std::string CpuName(const CpuModel& cpu) {
  return absl::StrCat(cpu.name.empty() ? "unknown CPU" : cpu.name, ", family ", cpu.family,
                      ", model ", cpu.model);
}

}  // namespace

std::string ReportTable(const BenchReport& r) {
  std::string out = absl::StrFormat(
      "model     %s\n          %s, %.1f MB of packed weights a step, loaded in %.2f s\n"
      "machine   %s\n          %s\n"
      "kernels   %s, numerics %s, KV %s, %d threads\n",
      r.model, r.format, r.weight_bytes / 1e6, r.load_seconds, CpuName(r.cpu),
      absl::StrJoin(r.cpu.KernelFlags(), " "), r.tier, r.numerics, r.kv_type, r.threads);
  if (r.limits.ops_per_second > 0) {
    absl::StrAppendFormat(&out, "limits    reads %.1f GB/s, int8 %.2f TOPS (%s)\n",
                          r.limits.read_bytes_per_second / 1e9, r.limits.ops_per_second / 1e12,
                          r.limits.instruction);
  }
  absl::StrAppendFormat(&out, "\n%-8s %6s %8s %10s %9s %7s %7s %7s %7s\n", "work", "batch",
                        "context", "tokens/s", "ms/step", "GB/s", "of read", "TOPS", "of int8");
  for (const PrefillFigure& f : r.prefills) {
    const double ops = f.ops / f.seconds;
    absl::StrAppendFormat(&out, "%-8s %6s %8d %10.1f %9.2f %7s %7s %7.2f %7s\n", "prefill", "-",
                          f.tokens, static_cast<double>(f.tokens) / f.seconds, f.seconds * 1e3, "-",
                          "-", ops / 1e12, Percent(ops, r.limits.ops_per_second));
  }
  for (const DecodeFigure& f : r.decodes) {
    const double bytes = f.bytes / f.seconds, ops = f.ops / f.seconds;
    absl::StrAppendFormat(&out, "%-8s %6d %8d %10.1f %9.2f %7.2f %7s %7.2f %7s\n", "decode",
                          f.batch, f.context, static_cast<double>(f.batch) / f.seconds,
                          f.seconds * 1e3, bytes / 1e9,
                          Percent(bytes, r.limits.read_bytes_per_second), ops / 1e12,
                          Percent(ops, r.limits.ops_per_second));
  }
  absl::StrAppendFormat(&out, "\nCPU time stolen by the host %.1f %%, busy %.0f %%\n",
                        100 * r.steal_share, 100 * r.busy_share);
  return out;
}

Json ReportJson(const BenchReport& r) {
  Json json = JsonObject{};
  json.Add("model", r.model);
  json.Add("format", r.format);
  json.Add("load_seconds", r.load_seconds);
  json.Add("weight_bytes", r.weight_bytes);
  json.Add("cpu", CpuName(r.cpu));
  JsonArray flags;
  for (const std::string& flag : r.cpu.KernelFlags()) flags.emplace_back(flag);
  json.Add("cpu_flags", std::move(flags));
  json.Add("threads", r.threads);
  json.Add("tier", r.tier);
  json.Add("numerics", r.numerics);
  json.Add("kv_dtype", r.kv_type);
  json.Add("read_bytes_per_second", r.limits.read_bytes_per_second);
  json.Add("int8_ops_per_second", r.limits.ops_per_second);
  json.Add("int8_instruction", r.limits.instruction);
  JsonArray prefills;
  for (const PrefillFigure& f : r.prefills) {
    Json& row = prefills.emplace_back(JsonObject{});
    row.Add("tokens", f.tokens);
    row.Add("seconds", f.seconds);
    row.Add("tokens_per_second", static_cast<double>(f.tokens) / f.seconds);
    row.Add("int8_share", Share(f.ops / f.seconds, r.limits.ops_per_second));
  }
  json.Add("prefill", std::move(prefills));
  JsonArray decodes;
  for (const DecodeFigure& f : r.decodes) {
    Json& row = decodes.emplace_back(JsonObject{});
    row.Add("batch", f.batch);
    row.Add("context", f.context);
    row.Add("step_seconds", f.seconds);
    row.Add("tokens_per_second", static_cast<double>(f.batch) / f.seconds);
    row.Add("bytes_per_step", f.bytes);
    row.Add("bandwidth_share", Share(f.bytes / f.seconds, r.limits.read_bytes_per_second));
    row.Add("int8_share", Share(f.ops / f.seconds, r.limits.ops_per_second));
  }
  json.Add("decode", std::move(decodes));
  json.Add("steal_share", r.steal_share);
  json.Add("busy_share", r.busy_share);
  return json;
}

}  // namespace millrace::cli
