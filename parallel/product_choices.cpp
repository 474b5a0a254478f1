#include "parallel/product_choices.h"

#include <map>
#include <sstream>

#include "kernels/timed_products.h"

namespace wuneng {
namespace {

constexpr char kEnd = '\n', kBetween = '\t';

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line, kEnd);) lines.push_back(line);
  return lines;
}

}  // namespace

TimedProducts time_products(const Comm& group, const Stream& stream) {
  const std::vector<std::string> mine = kernels::untimed_products(stream);
  std::string text;
  for (const std::string& product : mine) text += product + kEnd;
  const std::vector<std::string> all = group.all_gather_text(text, "products to time");
  std::map<std::string, int> first;  // the rank that times it
  for (int rank = 0; rank < group.size(); ++rank)
    for (const std::string& product : lines_of(all[rank])) first.emplace(product, rank);

  std::string found;
  for (const std::string& product : mine)
    if (first.at(product) == group.rank())
      found += product + kBetween + kernels::fastest_algorithm(stream, product) + kEnd;
  TimedProducts out{.products = static_cast<int64_t>(mine.size())};
  for (const std::string& of_rank : group.all_gather_text(found, "algorithms of products"))
    for (const std::string& line : lines_of(of_rank)) {
      const size_t at = line.find(kBetween);
      out.changed += kernels::choose_algorithm(stream, line.substr(0, at), line.substr(at + 1));
    }
  return out;
}

}  // namespace wuneng
