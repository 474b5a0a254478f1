// A corpus of preference pairs, as `wuneng tokenize` writes them: a pair is a document of PREFIX_chosen and
// the document of the same number of PREFIX_rejected, each with a loss mask.
#pragma once
#include <memory>

#include "data/batches/token_corpus.h"

namespace wuneng {

// Document 2 i of a split is the chosen answer of pair i, with its prompt, document 2 i + 1 the rejected one.
// options.paths: prefixes, PREFIX_chosen or its .idx or .bin file, directories or globs. A pair is held out
// as open_token_corpus holds out its chosen document. Throws unless the files of a pair have equally many
// documents, none of them empty, and loss masks; each process checks for its share of the documents that a
// label is left.
std::unique_ptr<Corpus> open_pair_corpus(const TokenCorpusOptions& options);
// Does this prefix have pairs?
bool is_pair_prefix(const std::string& prefix);

}  // namespace wuneng
