// A request's prompts as values of the ports of tokens, for each tokenizer.
#pragma once

#include <deque>

#include "../bundle.hpp"
#include "../request_inputs.hpp"

namespace soda {

// A prompt whose end the model does not read. field: of soda_request. sample: the first that has it.
struct Truncation {
    std::string field;
    int64_t sample, max_tokens;
    std::string lost;
};

struct TokenizedPrompts {
    std::vector<Given> inputs;                  // of `arrays`
    std::deque<std::vector<int64_t>> arrays;    // a place in it stays as it is
    std::vector<Truncation> truncated;
};

// Nothing where the request has no prompts. Raises RequestError.
TokenizedPrompts tokenize_prompts(Bundle& bundle, const soda_request& request);

}  // namespace soda
