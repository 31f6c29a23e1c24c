#include "bpe.hpp"
#include "unigram.hpp"

namespace soda {

std::unique_ptr<TokenModel> make_token_model(const Json& model) {
    // files of before the models had a name: a Unigram's vocabulary is a list
    const std::string usual = model.at("vocab").is_array() ? "Unigram" : "BPE";
    const auto type = model.contains("type") ? model["type"].get<std::string>() : usual;
    if (type == "Unigram") return std::make_unique<Unigram>(model);
    if (type == "BPE") return std::make_unique<BytePairs>(model);
    throw Unsupported("a model " + type);
}

}  // namespace soda
