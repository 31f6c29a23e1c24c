// Read manifests of format version 4, and of 2 and 3 with its keys: the same bundle in the terms of the current
// version.
#include "errors.hpp"
#include "manifest_parts.hpp"

namespace soda {
namespace {

constexpr size_t max_prepare = 8, max_weights = 8;

Model decode_model(const Field& field) {
    field.object({"name", "family", "hash", "latent_shape", "num_layers", "modules", "num_tokens", "width", "condition",
                  "output"});
    return {field["name"].string(),
            field["family"].string(),
            field["hash"].string(),
            field["latent_shape"].integers(3),
            field["output"].one_of({"pixels", "latents"}) == "pixels",
            0};
}

void add_ports(Manifest& manifest, const Field& condition) {
    if (decode_kind(condition, {"label", "text"}) == "label") {
        condition.object({"kind", "num_classes", "null_class"});
        add_label_port(manifest, condition["num_classes"].integer(), condition["null_class"].integer());
    } else {
        condition.object({"kind", "max_tokens", "embed_width", "tokenizer"});
        add_text_ports(manifest, condition);
    }
}

PrepareProgram decode_prepare(const Field& field) {
    field.object({"file", "inputs", "tables", "outputs"});
    return {
        field["file"].string(), {}, field["inputs"].strings(), field["tables"].strings(), field["outputs"].strings()};
}

Program decode_program(const Field& field, const Layers& layers) {
    field.object({"file", "inputs", "reads", "writes", "flops"});
    return {field["file"].string(),
            {},
            field["inputs"].strings(),
            decode_layer_values(field["reads"], layers),
            decode_layer_values(field["writes"], layers),
            field["flops"].integer()};
}

FinishProgram decode_image_program(const Field& field) {
    field.object({"file", "shape"});
    return {field["file"].string(), {}, ResultKind::image, field["shape"].integers(3), 0};
}

template <class Parts>
void check_length(const Parts& parts, size_t most, const char* name) {
    if (parts.empty() || parts.size() > most)
        throw StrictJsonError(say("len(", name, ")=", parts.size(), " is outside 1 .. ", most));
}

}  // namespace

Manifest upgrade_v4(const Field& root) {
    root.object({"format",           "version",  "builder",     "backend",   "precision", "model",   "sampler",
                 "rows_per_sample",  "guidance", "flops_ratio", "forecasts", "tensors",   "prepare", "programs",
                 "baseline_program", "steps",    "finish",      "arena",     "weights",   "tables",  "files"});
    Manifest manifest;
    manifest.builder = root["builder"].string();
    manifest.backend = root["backend"].string();
    manifest.precision = root["precision"].one_of({"fp32", "fp16", "bf16"});
    manifest.model = decode_model(root["model"]);
    add_ports(manifest, root["model"]["condition"]);
    const Layers layers = decode_layers(root["model"]);
    manifest.sampler = decode_sampler(root["sampler"]);
    manifest.rows_per_sample = root["rows_per_sample"].integer();
    manifest.guidance = root["guidance"].number();
    manifest.flops_ratio = root["flops_ratio"].number();
    manifest.forecasts = root["forecasts"].integer();
    manifest.tensors = decode_each(root["tensors"], decode_tensor);
    manifest.prepare = decode_each(root["prepare"], decode_prepare);
    manifest.programs = decode_each(root["programs"], [&](const Field& each) { return decode_program(each, layers); });
    manifest.baseline_program = root["baseline_program"].integer();
    manifest.steps = decode_each(root["steps"], decode_step);
    manifest.finish = decode_each(root["finish"], decode_image_program);
    manifest.arena = decode_layer_arena(root["arena"], manifest, layers);
    manifest.weights = root["weights"].strings();
    manifest.tables = root["tables"].string();
    manifest.files = decode_files(root["files"]);
    check_length(manifest.prepare, max_prepare, "prepare");
    check_length(manifest.weights, max_weights, "weights");
    return manifest;
}

}  // namespace soda
