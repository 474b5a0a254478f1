#include "parallel/replicas.h"

#include <algorithm>
#include <map>

#include "runtime/collective_error.h"
#include "runtime/hash.h"

namespace wuneng {
namespace {

// The checksums of one group: [ranks, parameters, peers]; peers is 1, or the ranks that each is compared
// with.
struct Checksums {
  int64_t parameters, peers;
  Tensor all;
  int64_t at(int64_t rank, int64_t parameter, int64_t peer = 0) const {
    return all.data<int64_t>()[(rank * parameters + parameter) * peers + peer];
  }
};

Checksums gather(const Comm& group, const std::vector<int64_t>& mine, int64_t peers) {
  const int64_t n = static_cast<int64_t>(mine.size()) / peers;
  Checksums out{n, peers, Tensor::empty({group.size(), n, peers}, DType::i64)};
  group.all_gather(Tensor::from(mine, {n, peers}), out.all, "checksums of parameters");
  return out;
}

// Of this rank's parameters: of the whole shards, [parameters], and of what it shares with each rank of its
// tensor-parallel group, [parameters, tp], 0 where that is nothing or the rank itself.
struct OwnChecksums {
  std::vector<int64_t> whole, shared;
};

int64_t checksum(const Tensor& host) { return static_cast<int64_t>(hash_of(host.raw(), host.bytes())); }

OwnChecksums own_checksums(const Comm& tp, const Parameters& parameters) {
  std::vector<int64_t> ranges;
  for (const Parameter* p : parameters) ranges.insert(ranges.end(), {p->held.begin, p->held.end});
  const Checksums held = gather(tp, ranges, 2);
  OwnChecksums out;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = *parameters[i];
    const Tensor host = p.var.value().to(Device{});
    out.whole.push_back(checksum(host));
    for (int64_t peer = 0; peer < tp.size(); ++peer) {
      const int64_t n = static_cast<int64_t>(i);
      const Range common{std::max(p.held.begin, held.at(peer, n, 0)),
                         std::min(p.held.end, held.at(peer, n, 1))};
      if (peer == tp.rank() || common.size() <= 0) {
        out.shared.push_back(0);
      } else if (common == p.held) {
        out.shared.push_back(out.whole.back());
      } else {
        WUNENG_ASSERT(p.shard_dim == 0);
        out.shared.push_back(checksum(host.rows(common.begin - p.held.begin, common.end - p.held.begin)));
      }
    }
  }
  return out;
}

[[noreturn]] void report(const Comm& group, const Parameter& p, std::vector<int> members) {
  for (int& rank : members) rank = group.world_ranks()[rank];
  std::sort(members.begin(), members.end());
  const std::string who =
      members.size() == 1
          ? fmt::format("rank {} of the world holds other bits than the rest", members[0])
          : fmt::format("ranks {} of the world hold different bits", fmt::join(members, " and "));
  fail_together(group,
                fmt::format("parameter {}: the replicas of group {} differ: {}", p.name, group.name(), who));
}

// All ranks hold the same shards.
void check_equal(const Comm& group, const Parameters& parameters, const std::vector<int64_t>& whole) {
  if (group.size() == 1) return;
  const Checksums found = gather(group, whole, 1);
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::map<int64_t, std::vector<int>> holders;  // by checksum
    for (int r = 0; r < group.size(); ++r) holders[found.at(r, static_cast<int64_t>(i))].push_back(r);
    if (holders.size() == 1) continue;
    const auto most = std::max_element(holders.begin(), holders.end(), [](const auto& a, const auto& b) {
      return a.second.size() < b.second.size();
    });
    std::vector<int> others;
    for (const auto& [hash, members] : holders)
      if (hash != most->first || 2 * members.size() <= static_cast<size_t>(group.size()))
        others.insert(others.end(), members.begin(), members.end());
    report(group, *parameters[i], others);
  }
}

// Each two ranks hold the same elements where their ranges overlap.
void check_overlaps(const Comm& group, const Parameters& parameters, const std::vector<int64_t>& shared) {
  const int64_t n = static_cast<int64_t>(parameters.size()), ranks = group.size();
  if (ranks == 1) return;
  const Checksums found = gather(group, shared, ranks);
  for (int64_t i = 0; i < n; ++i) {
    std::vector<int> differing(ranks, 0);  // with how many peers
    for (int64_t a = 0; a < ranks; ++a)
      for (int64_t b = 0; b < ranks; ++b) differing[a] += found.at(a, i, b) != found.at(b, i, a);
    const int worst = *std::max_element(differing.begin(), differing.end());
    if (worst == 0) continue;
    std::vector<int> members;
    for (int r = 0; r < group.size(); ++r)
      if (differing[r] == worst) members.push_back(r);
    report(group, *parameters[i], members);
  }
}

}  // namespace

void check_replicas(const Parameters& parameters, const GradientGroups& groups) {
  if (groups.tp.size() == 1 && groups.dp.size() == 1 && groups.embedding.size() == 1) return;
  const OwnChecksums own = own_checksums(groups.tp, parameters);
  check_overlaps(groups.tp, parameters, own.shared);
  check_equal(groups.dp, parameters, own.whole);
  Parameters tied;
  std::vector<int64_t> tied_whole;
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i]->sum_over_embedding) {
      tied.push_back(parameters[i]);
      tied_whole.push_back(own.whole[i]);
    }
  check_equal(groups.embedding, tied, tied_whole);
}

}  // namespace wuneng
