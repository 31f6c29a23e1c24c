#include "prompts.hpp"

#include <algorithm>

#include "../errors.hpp"
#include "tokenizer.hpp"

namespace soda {
namespace {

using Texts = std::vector<std::string>;

// Fields of a request for one tokenizer; null: those of the first.
struct Fields {
    const char *name, *negative_name;
    const char* const *texts, *const *negative;
};

Texts read_texts(const char* name, const char* const* texts, int32_t count) {
    Texts read;
    if (count < 1) throw RequestError(say(name, ": there are ", count, " of them"), SODA_REQUEST_ARGUMENT);
    for (int32_t i = 0; i < count; ++i) {
        if (!texts[i]) throw RequestError(say(name, "[", i, "] is NULL"), SODA_REQUEST_ARGUMENT);
        read.emplace_back(texts[i]);
    }
    return read;
}

void refuse_negatives(const Fields& fields, int32_t count) {
    for (int32_t i = 0; fields.negative && i < count; ++i)
        if (!fields.negative[i] || *fields.negative[i])
            throw RequestError("this bundle was built without guidance; a negative prompt has no effect in it");
}

void require_tokenizers(const Manifest& m) {
    if (!m.tokenizers.empty()) return;
    const auto is_label = [](const RequestPort& port) { return port.kind == PortKind::label; };
    if (std::any_of(m.ports.begin(), m.ports.end(), is_label))
        throw RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings");
    throw RequestError("this bundle has no text encoder; give embeddings, or build it with one");
}

class Tokenizing {
public:
    Tokenizing(Bundle& bundle, TokenizedPrompts& made) : bundle_(bundle), made_(made) {}

    void add(size_t number, const char* name, const Texts& texts, bool negative) {
        const PromptTokenizer& tokenizer = bundle_.tokenizer(number);
        std::vector<int64_t>& ids = made_.arrays.emplace_back();
        std::vector<int64_t>& mask = made_.arrays.emplace_back();
        for (size_t i = 0; i < texts.size(); ++i) {
            const PromptTokens tokens = tokenizer(texts[i]);
            ids.insert(ids.end(), tokens.ids.begin(), tokens.ids.end());
            mask.insert(mask.end(), tokens.mask.begin(), tokens.mask.end());
            if (tokens.lost) made_.truncated.push_back({name, int64_t(i), int64_t(tokens.ids.size()), *tokens.lost});
        }
        for (const RequestPort& port : bundle_.manifest().ports) {
            const bool is_ids = port.kind == PortKind::token_ids, is_mask = port.kind == PortKind::token_mask;
            if ((!is_ids && !is_mask) || size_t(port.tokenizer) != number) continue;
            const auto* data = reinterpret_cast<const char*>(is_ids ? ids.data() : mask.data());
            made_.inputs.push_back({&port, negative, name, data, nullptr, int64_t(texts.size()), {}});
        }
    }

private:
    Bundle& bundle_;
    TokenizedPrompts& made_;
};

}  // namespace

TokenizedPrompts tokenize_prompts(Bundle& bundle, const soda_request& request) {
    const Manifest& m = bundle.manifest();
    const Fields all[] = {{"prompts", "negative_prompts", request.prompts, request.negative_prompts},
                          {"prompts_2", "negative_prompts_2", request.prompts_2, request.negative_prompts_2},
                          {"prompts_3", "negative_prompts_3", request.prompts_3, request.negative_prompts_3}};
    TokenizedPrompts made;
    if (!request.prompts) {
        for (const Fields& fields : all)
            if (fields.texts || fields.negative)
                throw RequestError(say(fields.texts ? fields.name : fields.negative_name,
                                       " has no effect without prompts; give both"));
        return made;
    }
    require_tokenizers(m);
    for (size_t i = 1; i < 3; ++i)
        if (i >= m.tokenizers.size() && (all[i].texts || all[i].negative))
            throw RequestError(say(all[i].name, ": the prompts of this bundle go to ", m.tokenizers.size(),
                                   " text encoders; leave it out"));
    Tokenizing tokenizing(bundle, made);
    for (size_t number = 0; number < m.tokenizers.size(); ++number) {
        const Fields& own = all[number < 3 ? number : 0];
        const Fields& positive = own.texts ? own : all[0];
        tokenizing.add(number, positive.name, read_texts(positive.name, positive.texts, request.num_texts), false);
        const Fields& negative = own.negative ? own : all[0];
        if (m.rows_per_sample == 1)
            refuse_negatives(negative, request.num_negative_texts);
        else
            tokenizing.add(number, negative.negative_name,
                           negative.negative ? read_texts(negative.negative_name, negative.negative,
                                                          request.num_negative_texts)
                                             : Texts{""},
                           true);
    }
    return made;
}

}  // namespace soda
