// Prompts to token ids by a bundle's tokenizer.json: those that the tokenizers library gives. BUNDLE.md section 8.2.
#pragma once

#include "../manifest.hpp"
#include "added_tokens.hpp"

namespace soda {

// lost: the end of the text that has no tokens; none: it has them all.
struct PromptTokens {
    std::vector<int64_t> ids, mask;  // [max_tokens]
    std::optional<std::string> lost;
};

class PromptTokenizer {
public:
    // BundleError for a file that is no tokenizer, RequestError for one that this library does not read.
    PromptTokenizer(const std::string& path, const Tokenizer& entry);
    PromptTokens operator()(const std::string& prompt) const;  // RequestError for what is not UTF-8

private:
    void read_template(const Json& json);

    std::string path_, clean_;
    size_t max_tokens_;
    int64_t pad_;
    Normalizer normalize_;
    Splitter split_;
    std::unique_ptr<TokenModel> model_;
    std::unique_ptr<AddedTokens> added_;
    std::vector<int64_t> before_, after_;  // ids that a text is put between
};

}  // namespace soda
