#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>

#include "base/check.h"

namespace millrace {
namespace {

prometheus::Labels ToLabels(const MetricLabels& labels) {
  prometheus::Labels out;
  for (const auto& [name, value] : labels) out[name] = value;
  return out;
}

}  // namespace

void Counter::Add(double amount) const {
  if (metric_ != nullptr) static_cast<prometheus::Counter*>(metric_)->Increment(amount);
}
double Counter::Value() const {
  return metric_ == nullptr ? 0 : static_cast<prometheus::Counter*>(metric_)->Value();
}
void Gauge::Set(double value) const {
  if (metric_ != nullptr) static_cast<prometheus::Gauge*>(metric_)->Set(value);
}
void Gauge::Add(double amount) const {
  if (metric_ != nullptr) static_cast<prometheus::Gauge*>(metric_)->Increment(amount);
}
double Gauge::Value() const {
  return metric_ == nullptr ? 0 : static_cast<prometheus::Gauge*>(metric_)->Value();
}
void Histogram::Observe(double value) const {
  if (metric_ != nullptr) static_cast<prometheus::Histogram*>(metric_)->Observe(value);
}

// Families by name, because asking the registry twice for one name must give one family. The
// library returns references that live as long as the registry.
struct MetricsRegistry::State {
  prometheus::Registry registry;
  std::mutex mutex;
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters;
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges;
  std::map<std::string, prometheus::Family<prometheus::Histogram>*> histograms;

  // The library throws on a bad or doubly used name. Names are constants of ours: a bug.
  template <typename Builder, typename Family, typename... Buckets>
  auto* Series(std::map<std::string, Family*>& families, Builder builder, const std::string& name,
               const std::string& help, const MetricLabels& labels, const Buckets&... buckets) {
    std::lock_guard lock(mutex);
    try {
      return &Get(families, builder, name, help).Add(ToLabels(labels), buckets...);
    } catch (const std::exception& error) {
      CheckFailed(__FILE__, __LINE__, (name + ": " + error.what()).c_str());
    }
  }

  template <typename Builder, typename Family>
  Family& Get(std::map<std::string, Family*>& families, Builder builder, const std::string& name,
              const std::string& help) {
    Family*& family = families[name];
    if (family == nullptr) family = &builder.Name(name).Help(help).Register(registry);
    return *family;
  }
};

MetricsRegistry::MetricsRegistry() : state_(std::make_unique<State>()) {}
MetricsRegistry::~MetricsRegistry() = default;

Counter MetricsRegistry::AddCounter(const std::string& name, const std::string& help,
                                    const MetricLabels& labels) {
  Counter handle;
  handle.metric_ = state_->Series(state_->counters, prometheus::BuildCounter(), name, help, labels);
  return handle;
}

Gauge MetricsRegistry::AddGauge(const std::string& name, const std::string& help,
                                const MetricLabels& labels) {
  Gauge handle;
  handle.metric_ = state_->Series(state_->gauges, prometheus::BuildGauge(), name, help, labels);
  return handle;
}

Histogram MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                        const std::vector<double>& buckets,
                                        const MetricLabels& labels) {
  Histogram handle;
  handle.metric_ =
      state_->Series(state_->histograms, prometheus::BuildHistogram(), name, help, labels, buckets);
  return handle;
}

std::string MetricsRegistry::Expose() const {
  std::vector<prometheus::MetricFamily> families = state_->registry.Collect();
  std::sort(families.begin(), families.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace millrace
