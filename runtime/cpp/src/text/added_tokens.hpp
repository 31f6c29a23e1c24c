// Tokens that a text may name in full, "</s>": they are taken out before anything else happens to it.
#pragma once

#include "steps.hpp"

namespace soda {

// A part of a text: characters, or a token that stands in it.
struct Part {
    Text text;
    std::optional<Token> token;
};

class AddedTokens {
public:
    AddedTokens(const Json& json, const Normalizer& normalize);
    // The text normalized, in its parts.
    std::vector<Part> split(const Text& text, const Normalizer& normalize) const;
    std::optional<int64_t> id_of(const std::string& token) const;

private:
    struct Added {
        std::string name;
        Text content;
        int64_t id;
        bool takes_white_before, takes_white_after;
    };
    using List = std::vector<Added>;

    static void split_by(const List& tokens, const Text& text, std::vector<Part>& parts);

    List raw_, normalized_;  // looked for in the text as it is, and in the normalized one
};

}  // namespace soda
