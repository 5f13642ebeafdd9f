#pragma once
// Counters, gauges and histograms, and their Prometheus text (exposition format 0.0.4). A facade
// over prometheus-cpp's core, which stays in metrics.cc. Series are made at start-up from known
// label values only, so that their number is constant.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace millrace {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// Handles are small values; they live as long as their registry. A default-made handle does
// nothing, so that code under test needs no registry.
// Thread: any.
class Counter {
 public:
  void Add(double amount = 1) const;
  double Value() const;

 private:
  friend class MetricsRegistry;
  void* metric_ = nullptr;
};

// Thread: any.
class Gauge {
 public:
  void Set(double value) const;
  void Add(double amount) const;
  double Value() const;

 private:
  friend class MetricsRegistry;
  void* metric_ = nullptr;
};

// Thread: any.
class Histogram {
 public:
  void Observe(double value) const;

 private:
  friend class MetricsRegistry;
  void* metric_ = nullptr;
};

// Thread: any after the handles are made.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  // The same name and labels give the same series. REQUIRES: one kind and help text per name, a
  // name and label names that Prometheus allows, ascending buckets.
  Counter AddCounter(const std::string& name, const std::string& help,
                     const MetricLabels& labels = {});
  Gauge AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  Histogram AddHistogram(const std::string& name, const std::string& help,
                         const std::vector<double>& buckets, const MetricLabels& labels = {});

  // Text of all series, sorted by name. prometheus-cpp accepts the colon in vLLM's names.
  std::string Expose() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace
