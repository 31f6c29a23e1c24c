// Tokenize prompts for a test, which compares them with those of the tokenizers library.
//     drive_tokenizer TOKENIZER.json MAX_TOKENS CLEAN PAD_ID < a JSON list of texts > a JSON list of ids, mask, lost
#include <cstdio>
#include <iostream>
#include <iterator>

#include "text/tokenizer.hpp"

int main(int argc, char** argv) {
    if (argc != 5) return 1;
    try {
        const soda::PromptTokenizer tokenizer(argv[1], {argv[1], std::stoll(argv[2]), argv[3], std::stoll(argv[4])});
        const std::string given((std::istreambuf_iterator<char>(std::cin)), {});
        soda::Json made = soda::Json::array();
        for (const soda::Json& text : soda::Json::parse(given)) {
            const soda::PromptTokens tokens = tokenizer(text.get<std::string>());
            made.push_back({{"ids", tokens.ids}, {"mask", tokens.mask}});
            if (tokens.lost) made.back()["lost"] = *tokens.lost;
        }
        std::printf("%s\n", made.dump().c_str());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
