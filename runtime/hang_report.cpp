#include "runtime/hang_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace wuneng {
namespace {

using Kind = RankState::Kind;

constexpr size_t kMostCulprits = 6, kMostGroups = 12;  // lines of each kind
constexpr size_t kMostColumns = 60;                    // of a list of ranks or hosts

std::string clipped(const std::string& list, size_t count) {
  if (list.size() <= kMostColumns) return list;
  return fmt::format("{}.. ({} in all)", list.substr(0, list.rfind(',', kMostColumns) + 1), count);
}

std::string ranks_text(const std::vector<int>& ranks) {
  return (ranks.size() == 1 ? "rank " : "ranks ") + clipped(to_ranges(ranks), ranks.size());
}

// Without the number of the call, which is the rank's own; and without the ranks that differ from one of its
// waiters to the next.
std::string same_call(const std::string& call) { return call.substr(0, call.rfind(", call ")); }
std::string call_name(const std::string& call) {
  static const std::string kPeer = " with world rank ";
  std::string out = same_call(call);
  out.resize(std::min(out.size(), out.find(" (world ranks ")));
  if (const size_t at = out.find(kPeer); at != std::string::npos)
    out.erase(at, out.find_first_not_of("0123456789", at + kPeer.size()) - at);
  return out;
}

// "student dp0 pp0 tp0" and "student dp0 pp0 tp1": "student dp0 pp0 tp0-1".
std::string common_name(const std::vector<const RankState*>& ranks) {
  std::vector<std::string> heads;  // of the words, without the numbers at their ends
  std::vector<std::set<int>> numbers;
  for (const RankState* r : ranks) {
    const size_t open = r->name.find('('), close = r->name.rfind(')');
    if (open == std::string::npos || close == std::string::npos) return "";
    std::string words = r->name.substr(open + 1, close - open - 1) + " ";
    size_t at = 0, i = 0;
    for (size_t end; (end = words.find(' ', at)) != std::string::npos; at = end + 1, ++i) {
      const std::string word = words.substr(at, end - at);
      const size_t digits = word.find_last_not_of("0123456789") + 1;
      if (i == heads.size()) heads.push_back(word.substr(0, digits)), numbers.emplace_back();
      if (heads[i] != word.substr(0, digits)) return "";
      if (digits < word.size()) numbers[i].insert(std::stoi(word.substr(digits)));
    }
  }
  std::string out;
  for (size_t i = 0; i < heads.size(); ++i)
    out += (i ? " " : "") + heads[i] + to_ranges(std::vector<int>(numbers[i].begin(), numbers[i].end()));
  return out;
}

std::string hosts_text(const std::vector<const RankState*>& ranks) {
  std::vector<std::string> hosts;
  for (const RankState* r : ranks)
    if (!r->host.empty() && std::find(hosts.begin(), hosts.end(), r->host) == hosts.end())
      hosts.push_back(r->host);
  if (hosts.size() > 3) return fmt::format("{} .. {}, {} hosts", hosts.front(), hosts.back(), hosts.size());
  std::string out;
  for (const std::string& host : hosts) out += (out.empty() ? "" : ", ") + host;
  return out;
}

// "ranks 0-3 (student dp0-1 pp0 tp0-1; h1, h2)"
std::string who(const std::vector<const RankState*>& ranks) {
  std::vector<int> numbers;
  for (const RankState* r : ranks) numbers.push_back(r->rank);
  const std::string name = common_name(ranks), hosts = hosts_text(ranks);
  std::string more = name;
  if (!hosts.empty()) more += (more.empty() ? "" : "; ") + hosts;
  if (ranks.size() == 1 && ranks[0]->pid > 0) more += fmt::format(", process {}", ranks[0]->pid);
  return ranks_text(numbers) + (more.empty() ? "" : " (" + more + ")");
}

std::string seconds_text(const std::vector<const RankState*>& ranks) {
  const auto [low, high] =
      std::minmax_element(ranks.begin(), ranks.end(),
                          [](const RankState* a, const RankState* b) { return a->seconds < b->seconds; });
  const std::string most = fmt::format("{:.1f}", (*high)->seconds),
                    least = fmt::format("{:.1f}", (*low)->seconds);
  return least == most ? most + " s" : least + " to " + most + " s";
}

struct Waits {
  explicit Waits(const std::vector<RankState>& all) : missing(all.size()) {
    std::map<std::string, std::vector<int>> absent_from;  // by call: those of its group that are not in it
    for (const RankState& r : all) {
      if (r.kind != Kind::waiting) continue;
      const bool collective = std::find(r.peers.begin(), r.peers.end(), r.rank) != r.peers.end();
      const auto there = [&](int peer) {
        const RankState& p = all[peer];
        return p.kind == Kind::waiting && same_call(p.call) == same_call(r.call);
      };
      if (!collective) {
        missing[r.rank] = r.peers;
        continue;
      }
      const auto [found, first] = absent_from.try_emplace(same_call(r.call));
      if (first)
        for (const int peer : r.peers)
          if (peer < static_cast<int>(all.size()) && !there(peer)) found->second.push_back(peer);
      missing[r.rank] = found->second;
    }
  }

  // How many ranks wait for one of these, directly or through others.
  size_t waiting_for(const std::vector<const RankState*>& culprits) const {
    std::vector<std::vector<int>> waiters(missing.size());
    for (size_t r = 0; r < missing.size(); ++r)
      for (const int m : missing[r]) waiters[m].push_back(static_cast<int>(r));
    std::set<int> seen;
    for (const RankState* c : culprits) seen.insert(c->rank);
    std::vector<int> next(seen.begin(), seen.end());
    while (!next.empty()) {
      const int rank = next.back();
      next.pop_back();
      for (const int w : waiters[rank])
        if (seen.insert(w).second) next.push_back(w);
    }
    return seen.size() - culprits.size();
  }

  std::vector<std::vector<int>> missing;  // by rank: whom it waits for
};

std::string culprit_text(const std::vector<const RankState*>& ranks) {
  const RankState& r = *ranks[0];
  const std::string seconds = seconds_text(ranks);
  std::string text = who(ranks);
  switch (r.kind) {
    case Kind::absent:
      return text + (ranks.size() == 1 ? " was" : " were") +
             " never heard of: not started, or stopped before it could connect";
    case Kind::gone:
      text += fmt::format(" ended or died: connection closed {} ago", seconds);
      break;
    case Kind::silent:
      text += fmt::format(" did not answer: no sign of life for {}{}", seconds,
                          r.stopped ? ", process stopped (SIGSTOP)" : "");
      break;
    default:
      text += fmt::format(" in no call for {}: computes, or is stuck", seconds);
  }
  if (!r.place.empty()) text += "; at " + r.place;
  if (!r.call.empty()) text += "; last call: " + call_name(r.call);
  return text;
}

template <class Key>
using Groups = std::map<Key, std::vector<const RankState*>>;

// The largest groups first.
template <class Key>
std::vector<std::vector<const RankState*>> by_size(const Groups<Key>& groups) {
  std::vector<std::vector<const RankState*>> out;
  for (const auto& [key, ranks] : groups) out.push_back(ranks);
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return out;
}

std::string left_out(const std::vector<std::vector<const RankState*>>& groups, size_t shown) {
  size_t ranks = 0;
  for (size_t i = shown; i < groups.size(); ++i) ranks += groups[i].size();
  return ranks == 0 ? ""
                    : fmt::format("  and {} more ranks in {} other places\n", ranks, groups.size() - shown);
}

}  // namespace

std::string to_ranges(std::span<const int> sorted) {
  std::string out;
  for (size_t i = 0; i < sorted.size();) {
    size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    out += (out.empty() ? "" : ",") + std::to_string(sorted[i]);
    if (last > i) out += "-" + std::to_string(sorted[last]);
    i = last + 1;
  }
  return out;
}

std::vector<int> from_ranges(const std::string& text) {
  std::vector<int> out;
  for (const char* at = text.c_str(); *at;) {
    char* end = nullptr;
    const int first = static_cast<int>(std::strtol(at, &end, 10));
    if (end == at) break;
    const int last = *end == '-' ? static_cast<int>(std::strtol(end + 1, &end, 10)) : first;
    for (int i = first; i <= last; ++i) out.push_back(i);
    at = *end == ',' ? end + 1 : end;
  }
  return out;
}

std::string hang_report(const std::vector<RankState>& all) {
  const Waits waits(all);
  std::set<int> wanted;  // ranks that others wait for
  for (const auto& missing : waits.missing) wanted.insert(missing.begin(), missing.end());

  // 1. Those that do not wait themselves.
  Groups<std::tuple<Kind, std::string, std::string>> culprits;
  Groups<std::pair<std::string, std::string>> waiting;
  for (const RankState& r : all) {
    if (r.kind == Kind::waiting)
      waiting[{call_name(r.call), r.place}].push_back(&r);
    else if (r.kind == Kind::silent || wanted.contains(r.rank))
      culprits[{r.kind, r.place, call_name(r.call)}].push_back(&r);
  }
  std::string out;
  const auto culprit_groups = by_size(culprits);
  for (size_t i = 0; i < culprit_groups.size() && i < kMostCulprits; ++i) {
    const auto& group = culprit_groups[i];
    out += fmt::format("wuneng: hang: {}\n  {} of {} ranks wait for {}, directly or through others\n",
                       culprit_text(group), waits.waiting_for(group), all.size(),
                       group.size() == 1 ? "it" : "them");
  }
  out += left_out(culprit_groups, kMostCulprits);
  if (culprits.empty())
    out += fmt::format("wuneng: hang: {}\n",
                       wanted.empty() ? "all ranks that the calls below need are in them, but they do not end"
                                      : "ranks wait for each other, in calls that do not meet");

  // 2. Who waits, for whom.
  const auto groups = by_size(waiting);
  for (size_t i = 0; i < groups.size() && i < kMostGroups; ++i) {
    std::set<int> missing;
    for (const RankState* r : groups[i])
      missing.insert(waits.missing[r->rank].begin(), waits.missing[r->rank].end());
    const std::vector<int> list(missing.begin(), missing.end());
    out += fmt::format("  {} wait{} {} in {}{}{}\n", who(groups[i]), groups[i].size() == 1 ? "s" : "",
                       seconds_text(groups[i]), call_name(groups[i][0]->call),
                       groups[i][0]->place.empty() ? "" : " at " + groups[i][0]->place,
                       list.empty() ? "" : " for " + ranks_text(list));
  }
  out += left_out(groups, kMostGroups);
  return out;
}

}  // namespace wuneng
