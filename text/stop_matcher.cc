#include "text/stop_matcher.h"

#include <utility>

#include "base/check.h"

namespace millrace::text {

// Aho and Corasick (1975). A state is a prefix of some string; its depth is the length of the
// longest suffix of the text so far that may still grow into a match, which is what must be held
// back.
struct StopStrings::Automaton {
  struct Node {
    std::vector<std::pair<unsigned char, int>> edges;
    int fail = 0;
    uint32_t depth = 0;
    int match = -1;  // the longest string that ends here
  };
  std::vector<std::string> strings;
  std::vector<Node> nodes;

  int Child(int node, unsigned char byte) const {
    for (const auto& edge : nodes[node].edges) {
      if (edge.first == byte) return edge.second;
    }
    return -1;
  }
  int Next(int node, unsigned char byte) const {
    for (;;) {
      const int child = Child(node, byte);
      if (child >= 0) return child;
      if (node == 0) return 0;
      node = nodes[node].fail;
    }
  }
};

StopStrings::StopStrings(std::vector<std::string> strings)
    : automaton_(std::make_unique<Automaton>()) {
  Automaton& a = *automaton_;
  a.strings = std::move(strings);
  a.nodes.emplace_back();
  for (size_t i = 0; i < a.strings.size(); ++i) {
    CHECK(!a.strings[i].empty());
    int node = 0;
    for (unsigned char byte : a.strings[i]) {
      int child = a.Child(node, byte);
      if (child < 0) {
        child = static_cast<int>(a.nodes.size());
        a.nodes.emplace_back();
        a.nodes[child].depth = a.nodes[node].depth + 1;
        a.nodes[node].edges.emplace_back(byte, child);
      }
      node = child;
    }
    if (a.nodes[node].match < 0) a.nodes[node].match = static_cast<int>(i);
  }
  // Breadth first, so that a state's shorter suffix is complete before the state.
  std::vector<int> queue = {0};
  for (size_t at = 0; at < queue.size(); ++at) {
    const int node = queue[at];
    for (const auto& edge : a.nodes[node].edges) {
      Automaton::Node& child = a.nodes[edge.second];
      child.fail = node == 0 ? 0 : a.Next(a.nodes[node].fail, edge.first);
      if (child.match < 0) child.match = a.nodes[child.fail].match;
      queue.push_back(edge.second);
    }
  }
}

StopStrings::~StopStrings() = default;
bool StopStrings::empty() const {
  return automaton_->strings.empty();
}
const std::string& StopStrings::string(int index) const {
  return automaton_->strings[index];
}

StopMatcher::StopMatcher(const StopStrings& strings) : strings_(&strings) {}

StopMatcher::Output StopMatcher::Append(std::string_view piece, bool include_stop) {
  Output output;
  if (matched_) return output;
  const StopStrings::Automaton& a = *strings_->automaton_;
  for (size_t i = 0; i < piece.size(); ++i) {
    state_ = a.Next(state_, static_cast<unsigned char>(piece[i]));
    const int match = a.nodes[state_].match;
    if (match < 0) continue;
    matched_ = true;
    output.matched = match;
    output.text = std::move(held_);
    output.text += piece.substr(0, i + 1);
    if (!include_stop) output.text.resize(output.text.size() - a.strings[match].size());
    held_.clear();
    return output;
  }
  held_ += piece;
  const size_t keep = a.nodes[state_].depth;
  output.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return output;
}

std::string StopMatcher::Flush() {
  return std::exchange(held_, std::string());
}

}  // namespace millrace::text
