// Parts of a manifest: functions of one JSON field each, for the format versions that spell it so.
#pragma once

#include "manifest.hpp"
#include "strict_json.hpp"

namespace soda {

template <class Decode>
auto decode_each(const Field& field, Decode decode) {
    std::vector<decltype(decode(field))> parts;
    for (const Field& each : field.array()) parts.push_back(decode(each));
    return parts;
}

// The `kind` of a union's object.
std::string decode_kind(const Field& field, std::initializer_list<const char*> kinds);

// Of versions 2 and later.
Sampler decode_sampler(const Field& field);
PreparedTensor decode_tensor(const Field& field);
// Of all versions.
Step decode_step(const Field& field);
std::map<std::string, FileEntry> decode_files(const Field& field);

// Of version 5 (manifest_ports.cpp).
RequestPort decode_port(const Field& field);
Tokenizer decode_tokenizer(const Field& field);
FinishProgram decode_finish(const Field& field);

// Versions 1 to 4: a model of equal layers, with labels or one text as its condition (manifest_layers.cpp).
struct Layers {
    int64_t num_layers;
    Names modules;
    int64_t num_tokens, width;
};

Layers decode_layers(const Field& model);
void add_label_port(Manifest& manifest, int64_t num_classes, int64_t null_class);
void add_text_ports(Manifest& manifest, const Field& condition);
// Adds the slots of all layers and modules, too; the precision and rows_per_sample are there.
Arena decode_layer_arena(const Field& field, Manifest& manifest, const Layers& layers);
// "12.ff.1" -> the value of a slot that decode_layer_arena makes.
std::vector<SlotValue> decode_layer_values(const Field& field, const Layers& layers);

// Manifests of older versions in the terms of the current one.
Manifest upgrade_v1(const Field& root);
Manifest upgrade_v4(const Field& root);  // and of versions 2 and 3 with the keys of version 4

}  // namespace soda
