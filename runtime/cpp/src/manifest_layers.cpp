// Models of versions 1 to 4, which are layers of equal modules, as the slots and ports of the current version.
#include <algorithm>

#include "errors.hpp"
#include "manifest_parts.hpp"
#include "names.hpp"
#include "signature.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;

void check_range(int64_t value, int64_t low, int64_t high, const char* name) {
    if (value < low || value > high) throw StrictJsonError(say(name, "=", value, " is outside ", low, " .. ", high));
}

}  // namespace

Layers decode_layers(const Field& model) {
    Layers layers{model["num_layers"].integer(), model["modules"].strings(), model["num_tokens"].integer(),
                  model["width"].integer()};
    check_range(layers.num_layers, 1, 1000, "model.num_layers");
    check_range(int64_t(layers.modules.size()), 1, 8, "len(modules)");
    check_range(layers.num_tokens, 1, 1 << 20, "model.num_tokens");
    check_range(layers.width, 1, 1 << 16, "model.width");
    const auto plain = [](const std::string& name) { return matches(name, "a-z_", "a-z_", 32); };
    if (has_duplicates(layers.modules) || !std::all_of(layers.modules.begin(), layers.modules.end(), plain))
        throw StrictJsonError("model.modules has a name twice, or one that is not plain");
    return layers;
}

void add_label_port(Manifest& manifest, int64_t num_classes, int64_t null_class) {
    RequestPort port{"labels", "int64", {}, PortKind::label};
    port.num_classes = num_classes;
    port.null_class = null_class;
    manifest.ports.push_back(port);
}

void add_text_ports(Manifest& manifest, const Field& condition) {
    const int64_t tokens = condition["max_tokens"].integer(), width = condition["embed_width"].integer();
    const std::string tokenizer = condition["tokenizer"].string();
    check_range(tokens, 1, 1 << 12, "model.condition.max_tokens");
    check_range(width, 1, 1 << 16, "model.condition.embed_width");
    if (!tokenizer.empty()) {
        manifest.tokenizers.push_back({tokenizer, tokens, "lower-strip", -1});
        manifest.ports.push_back({"input_ids", "int64", {tokens}, PortKind::token_ids});
    }
    const PortKind mask = tokenizer.empty() ? PortKind::mask : PortKind::token_mask;
    manifest.ports.push_back({"attention_mask", "int64", {tokens}, mask});
    manifest.ports.push_back({"embeds", "float32", {tokens, width}, PortKind::embedding});
}

Arena decode_layer_arena(const Field& field, Manifest& manifest, const Layers& layers) {
    field.object({"bytes", "lower_bound_bytes", "naive_bytes", "slot_bytes"});
    const int64_t slot_bytes = field["slot_bytes"].integer();
    const std::string dtype = manifest.precision == "fp32"   ? "float32"
                              : manifest.precision == "fp16" ? "float16"
                                                             : "bfloat16";
    check_range(manifest.rows_per_sample, 1, 2, "rows_per_sample");
    const int64_t bytes = item_bytes(dtype_of(dtype)) * manifest.rows_per_sample * layers.num_tokens * layers.width;
    if (slot_bytes != (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes)
        throw StrictJsonError(say("arena.slot_bytes=", slot_bytes, " is not one slot of ", bytes, " bytes, aligned"));
    const Sizes shape{layers.num_tokens, layers.width};
    for (int64_t layer = 0; layer < layers.num_layers; ++layer)
        for (const auto& module : layers.modules) manifest.slots.push_back({say(layer, ".", module), shape, dtype});
    manifest.slots.push_back({say(layers.num_layers, ".stack"), shape, dtype});
    manifest.model.sites = int64_t(manifest.slots.size());
    return {field["bytes"].integer(), field["lower_bound_bytes"].integer(), field["naive_bytes"].integer()};
}

std::vector<SlotValue> decode_layer_values(const Field& field, const Layers& layers) {
    const auto number_of = [&](const std::string& layer, const std::string& module) -> int64_t {
        if (!matches(layer, "0-9", "0-9", 5) || (layer.size() > 1 && layer[0] == '0')) return -1;
        const int64_t number = std::stol(layer), modules = int64_t(layers.modules.size());
        if (number == layers.num_layers && module == "stack") return number * modules;
        const auto found = std::find(layers.modules.begin(), layers.modules.end(), module);
        if (number >= layers.num_layers || found == layers.modules.end()) return -1;
        return number * modules + (found - layers.modules.begin());
    };
    std::vector<SlotValue> values;
    for (const std::string& text : field.strings()) {
        const size_t dot = text.find('.'), second = dot == std::string::npos ? dot : text.find('.', dot + 1);
        const std::string age = second == std::string::npos ? "" : text.substr(second);
        const bool known = dot != std::string::npos && (age.empty() || age == ".1" || age == ".2");
        const int64_t slot = known ? number_of(text.substr(0, dot), text.substr(dot + 1, second - dot - 1)) : -1;
        values.push_back({slot, age.empty() ? 0 : age.back() - '0', text});
    }
    return values;
}

}  // namespace soda
