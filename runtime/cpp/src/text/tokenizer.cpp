#include "tokenizer.hpp"

#include <algorithm>

#include "../errors.hpp"
#include "../files.hpp"

namespace soda {
namespace {

// What Python's str.strip removes.
bool is_outer_white(char32_t code) {
    return is_white(code) || (code >= 0x1C && code <= 0x1F);
}

Text strip(const Text& text) {
    const auto is_kept = [](const Char& each) { return !is_outer_white(each.code); };
    const auto begin = std::find_if(text.begin(), text.end(), is_kept);
    auto end = text.end();
    while (end != begin && !is_kept(*(end - 1))) --end;
    return Text(begin, end);
}

Text collapse(const Text& text) {
    Text changed;
    for (const Char& each : text) {
        const bool white = is_outer_white(each.code);
        if (!white || changed.empty() || changed.back().code != ' ') changed.push_back({white ? ' ' : each.code, 0});
    }
    return changed;
}

Text cleaned(const Text& text, const std::string& clean) {
    if (clean == "none") return text;
    if (clean == "strip") return strip(text);
    if (clean == "lower-strip") return strip(lower_case_with_final_sigma(text));
    if (std::any_of(text.begin(), text.end(), [](const Char& each) { return each.code == '&'; }))
        throw RequestError(
            "a prompt has an '&', which may stand for a character of HTML; leave it out, or give token ids");
    return strip(collapse(text));
}

}  // namespace

PromptTokenizer::PromptTokenizer(const std::string& path, const Tokenizer& entry)
    : path_(path), clean_(entry.clean), max_tokens_(size_t(entry.max_tokens)) {
    const auto damaged = [&](const char* what) {
        return BundleError(say(path, ": not a tokenizer (", what, "); copy or build the bundle again"));
    };
    try {
        const Json json = parse_json(read_bytes(path, 0, stamp_of(path).bytes));
        const auto part = [&](const char* name) { return json.contains(name) ? json[name] : Json(); };
        normalize_ = make_normalizer(part("normalizer"));
        split_ = make_splitter(part("pre_tokenizer"));
        model_ = make_token_model(json.at("model"));
        added_ = std::make_unique<AddedTokens>(part("added_tokens"), normalize_);
        read_template(part("post_processor"));
    } catch (const StrictJsonError& error) {
        throw damaged(error.what());
    } catch (const Json::exception& error) {
        throw damaged(error.what());
    } catch (const Unsupported& error) {
        throw RequestError(say(path, ": has ", shown(error.what(), 200),
                               ", which this library does not read; give token ids or embeddings in place of prompts"));
    }
    const auto named = added_->id_of("<pad>"), known = model_->id_of("<pad>");
    pad_ = entry.pad_id >= 0 ? entry.pad_id : named ? *named : known.value_or(0);
    if (before_.size() + after_.size() > max_tokens_)
        throw BundleError(say(path, ": adds more tokens than a prompt has; copy or build the bundle again"));
}

void PromptTokenizer::read_template(const Json& json) {
    const auto type = json.is_null() ? "ByteLevel" : json.at("type").get<std::string>();
    if (type == "ByteLevel") return;  // changes no ids
    if (type == "Sequence") {
        for (const Json& each : json.at("processors")) read_template(each);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
        before_.insert(before_.begin(), json.at("cls").at(1).get<int64_t>());
        after_.push_back(json.at("sep").at(1).get<int64_t>());
    } else if (type == "TemplateProcessing") {
        std::vector<int64_t>* side = &before_;
        for (const Json& each : json.at("single")) {
            if (each.contains("Sequence")) {
                side = &after_;
                continue;
            }
            const auto name = each.at("SpecialToken").at("id").get<std::string>();
            for (const Json& id : json.at("special_tokens").at(name).at("ids")) side->push_back(id.get<int64_t>());
        }
    } else {
        throw Unsupported("a post-processor " + type);
    }
}

PromptTokens PromptTokenizer::operator()(const std::string& prompt) const {
    const auto given = read_utf8(prompt);
    if (!given) throw RequestError("a prompt is not valid UTF-8");
    Text text = cleaned(*given, clean_);
    for (size_t i = 0; i < text.size(); ++i) text[i].end = i + 1;
    std::vector<Token> tokens;
    for (const Part& part : added_->split(text, normalize_)) {
        if (part.token)
            tokens.push_back(*part.token);
        else if (!part.text.empty())
            for (const Text& piece : split_({part.text})) model_->tokenize(piece, tokens);
    }
    const size_t room = max_tokens_ - before_.size() - after_.size();
    PromptTokens made;
    if (tokens.size() > room) {
        tokens.resize(room);
        size_t end = 0;
        for (const Token& token : tokens) end = std::max(end, token.end);
        made.lost = to_utf8(strip(Text(text.begin() + ptrdiff_t(end), text.end())));
    }
    made.ids = before_;
    for (const Token& token : tokens) made.ids.push_back(token.id);
    made.ids.insert(made.ids.end(), after_.begin(), after_.end());
    made.mask.assign(made.ids.size(), 1);
    made.ids.resize(max_tokens_, pad_);
    made.mask.resize(max_tokens_, 0);
    return made;
}

}  // namespace soda
