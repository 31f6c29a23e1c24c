#include "lora_file.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "errors.hpp"
#include "files.hpp"
#include "floats.hpp"
#include "strict_json.hpp"
#include "tensors.hpp"

namespace soda {
namespace {

const std::vector<std::string> down_endings = {".lora_A.weight",           ".lora_A.default.weight",
                                               ".lora_A.default_0.weight", ".lora_down.weight",
                                               ".lora.down.weight",        ".lora_linear_layer.down.weight",
                                               "_lora.down.weight"};
const std::vector<std::string> up_endings = {".lora_B.weight",           ".lora_B.default.weight",
                                             ".lora_B.default_0.weight", ".lora_up.weight",
                                             ".lora.up.weight",          ".lora_linear_layer.up.weight",
                                             "_lora.up.weight"};
// What ends of keys have in them, and whose they are.
const std::vector<std::pair<std::string, std::string>> other_methods = {
    {"dora_scale", "DoRA, which scales whole columns"},
    {"lora_magnitude_vector", "DoRA, which scales whole columns"},
    {"hada_w", "LoHa"},
    {"lokr_", "LoKr"},
    {"lora_mid", "a LoCon with three factors"},
    {"oft_", "OFT"},
    {"boft_", "BOFT"},
    {"ia3_", "IA3"},
    {"glora", "GLoRA"},
    {"lora_embedding_", "a LoRA of token embeddings"},
    {".diff.", "whole differences"},
    {".diff_b.", "whole differences"},
    {".w_norm.", "whole differences"},
    {".lora_B.bias.", "a LoRA with biases"},
    {".lora_up.bias.", "a LoRA with biases"}};
constexpr const char* peft_file = "adapter_model.safetensors";
constexpr const char* diffusers_file = "pytorch_lora_weights.safetensors";
constexpr const char* metadata_key = "lora_adapter_metadata";  // diffusers': PEFT's settings, under the part's name

using Keys = std::map<std::string, std::string>;  // layer -> key

bool ends_with(const std::string& text, const std::string& ending) {
    return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

bool starts_with(const std::string& text, const std::string& beginning) {
    return text.compare(0, beginning.size(), beginning) == 0;
}

std::string file_name(const std::string& path) {
    return path.substr(path.rfind('/') + 1);
}

bool is_file(const std::string& path) {
    try {
        require_regular_file(path, INT64_MAX);
        return true;
    } catch (const BundleError&) {
        return false;
    }
}

RequestError refusal(const std::string& path, const std::string& what) {
    return RequestError(say("lora ", path, ": ", what));
}

// The file that a folder has, or the file itself.
std::string file_in(const std::string& given) {
    if (is_folder(given)) {
        for (const char* name : {peft_file, diffusers_file})
            if (is_file(say(given, "/", name))) return say(given, "/", name);
        throw refusal(given, say("the folder has neither ", peft_file, " nor ", diffusers_file));
    }
    if (!is_file(given)) throw refusal(given, "no such file");
    for (const char* pickled : {".bin", ".pt", ".pth", ".ckpt"})
        if (ends_with(given, pickled))
            throw refusal(given, "pickled, and loading that can run any code; get it as .safetensors");
    return given;
}

// The last three words of a key, each between dots.
std::string end_of(const std::string& key) {
    size_t begin = key.size();
    for (int words = 0; words < 3 && begin != std::string::npos; ++words)
        begin = begin == 0 ? std::string::npos : key.rfind('.', begin - 1);
    return begin == std::string::npos ? "." + key + "." : key.substr(begin) + ".";
}

struct Roles {
    Keys down, up, alpha;
};

Roles roles_of(const std::string& path, const TensorEntries& entries) {
    Roles roles;
    std::vector<std::string> others;
    const auto place = [&](const std::string& key, const std::vector<std::string>& endings, Keys& role) {
        for (const auto& ending : endings) {
            if (!ends_with(key, ending)) continue;
            const std::string name = key.substr(0, key.size() - ending.size());
            if (!role.emplace(name, key).second)
                throw refusal(path, say("has ", shown(name, 120), " twice, under two conventions"));
            return true;
        }
        return false;
    };
    for (const auto& [key, entry] : entries)
        if (!place(key, down_endings, roles.down) && !place(key, up_endings, roles.up) &&
            !place(key, {".alpha"}, roles.alpha))
            others.push_back(key);
    for (const auto& key : others)
        for (const auto& [mark, method] : other_methods)
            if (end_of(key).find(mark) != std::string::npos)
                throw refusal(path, say("is ", method, " (", shown(key, 120), "); only plain LoRA can be added"));
    if (roles.down.empty() && roles.up.empty())
        throw refusal(path, say("not a LoRA: none of its ", entries.size(),
                                " tensors is a lora_A, lora_B, lora_down or lora_up"));
    if (!others.empty())
        throw refusal(path, say(shown(others[0], 120), " is no part of a plain LoRA; only those can be added"));
    return roles;
}

// PEFT's settings of each part, "" where they are of all.
using Settings = std::map<std::string, Json>;

Settings read_settings(const std::string& path, const std::map<std::string, std::string>& metadata) {
    const std::string beside = path.substr(0, path.size() - file_name(path).size()) + "adapter_config.json";
    const auto known = metadata.find(metadata_key);
    Settings settings;
    if (known == metadata.end() && !(file_name(path) == peft_file && is_file(beside))) return settings;
    const Json json = Json::parse(
        known == metadata.end() ? read_bytes(beside, 0, stamp_of(beside).bytes) : known->second, nullptr, false);
    if (!json.is_object()) throw refusal(path, "its settings are not readable as JSON; get it again");
    if (known == metadata.end()) {
        settings[""] = json;
    } else {
        for (const auto& item : json.items()) {
            const size_t dot = item.key().rfind('.');
            const std::string part = dot == std::string::npos ? "" : item.key().substr(0, dot);
            settings[part][item.key().substr(dot == std::string::npos ? 0 : dot + 1)] = item.value();
        }
    }
    for (const auto& [part, config] : settings)
        if (config.value("use_dora", Json(false)) == Json(true))
            throw refusal(path, say("is ", other_methods[0].second, "; only plain LoRA can be added"));
    return settings;
}

// What the product of the factors is multiplied by. alpha: the file's own for this layer, NaN without.
double scale_of(const Settings& settings, const std::string& name, int64_t rank, std::optional<double> alpha) {
    const std::string wrapper = "base_model.model.";
    const std::string plain = starts_with(name, wrapper) ? name.substr(wrapper.size()) : name;
    std::string part;
    for (const auto& [each, config] : settings)
        if (!each.empty() && starts_with(plain, each + ".")) part = each;
    const auto found = settings.find(part);
    const Json config = found == settings.end() ? Json::object() : found->second;
    const std::string own = part.empty() ? plain : plain.substr(part.size() + 1);
    Json stated = config.value("lora_alpha", Json(double(rank)));
    const Json patterns = config.value("alpha_pattern", Json::object());
    if (patterns.is_object())
        for (const auto& item : patterns.items())
            if (own == item.key() || ends_with(own, "." + item.key())) {
                stated = item.value();
                break;
            }
    if (alpha) stated = *alpha;
    if (!stated.is_number() || rank < 1) return NAN;
    const bool by_root = config.value("use_rslora", Json(false)) == Json(true);
    return stated.get<double>() / (by_root ? std::sqrt(double(rank)) : double(rank));
}

}  // namespace

std::vector<float> LoraFactor::values() const {
    return widened(dtype, content.data(), content.size());
}

LoraFile read_lora(const std::string& given) {
    const std::string path = file_in(given);
    TensorEntries entries;
    std::map<std::string, std::string> metadata;
    std::string content;
    try {
        entries = read_header(path);
        metadata = read_metadata(path);
        content = read_bytes(path, 0, stamp_of(path).bytes);
    } catch (const BundleError&) {
        throw refusal(path, "not a whole .safetensors file; get it again, or convert it");
    }
    const auto factor = [&](const std::string& key) {
        const TensorEntry& entry = entries.at(key);
        if (!is_float_dtype(entry.dtype))
            throw refusal(path, say(shown(key, 120), " is ", entry.dtype, "; factors are floats of 16 bits or more"));
        if (entry.end > int64_t(content.size())) throw refusal(path, "was written to while it was read");
        return LoraFactor{entry.dtype, entry.shape, content.substr(size_t(entry.begin), size_t(entry.end - entry.begin))};
    };
    const Roles roles = roles_of(path, entries);
    const Settings settings = read_settings(path, metadata);
    const auto lone = [&](const std::string& key) {
        return refusal(path, say(shown(key, 120), " has no second factor; the file is incomplete"));
    };
    LoraFile file{path, {}};
    for (const auto& [name, key] : roles.down) {
        const auto other = roles.up.find(name);
        if (other == roles.up.end()) throw lone(key);
        LoraFactor down = factor(key), up = factor(other->second);
        const int64_t rank = down.shape.empty() ? 0 : down.shape[0];
        bool fits = down.shape.size() >= 2 && down.shape.size() == up.shape.size() && up.shape[1] == rank;
        for (size_t i = 2; fits && i < up.shape.size(); ++i) fits = up.shape[i] == 1;
        if (!fits) throw refusal(path, say("the factors of ", shown(name, 120), " do not go together"));
        std::optional<double> alpha;
        const auto stated = roles.alpha.find(name);
        if (stated != roles.alpha.end()) {
            const std::vector<float> values = factor(stated->second).values();
            alpha = values.size() == 1 ? double(values[0]) : NAN;
        }
        const double scale = scale_of(settings, name, rank, alpha);
        if (!std::isfinite(scale))
            throw refusal(path, say("the alpha of ", shown(name, 120), " is no number; get the file again"));
        file.layers.push_back({name, std::move(down), std::move(up), scale});
    }
    for (const auto& [name, key] : roles.up)
        if (roles.down.count(name) == 0) throw lone(key);
    return file;
}

}  // namespace soda
