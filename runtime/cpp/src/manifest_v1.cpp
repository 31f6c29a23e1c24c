// Read manifests of format version 1: the same bundle in the terms of the current version.
#include "errors.hpp"
#include "manifest_parts.hpp"

namespace soda {
namespace {

Model decode_model(const Field& field) {
    field.object({"name", "family", "hash", "latent_shape", "num_layers", "modules", "num_tokens", "width",
                  "num_classes", "null_class", "output"});
    return {field["name"].string(),
            field["family"].string(),
            field["hash"].string(),
            field["latent_shape"].integers(3),
            field["output"].one_of({"pixels", "latents"}) == "pixels",
            0};
}

double decode_timestep(const Field& field) {
    const int64_t timestep = field.integer();
    if (timestep < 0 || timestep > int64_t(1) << 31)
        throw StrictJsonError(field.where() + ": expected a number within 0 .. 2147483648");
    return double(timestep);
}

Sampler decode_sampler_v1(const Field& field) {
    field.object({"name", "steps", "timesteps", "state_size", "stochastic", "initial_scale"});
    return {field["name"].string(),
            field["steps"].integer(),
            decode_each(field["timesteps"], decode_timestep),
            field["state_size"].integer(),
            field["stochastic"].boolean(),
            false,
            false,
            field["initial_scale"].number()};
}

PreparedTensor decode_conditioning(const Field& field) {
    field.object({"name", "entries", "width"});
    return {field["name"].string(), "float32", true, true, {field["entries"].integer(), field["width"].integer()}};
}

}  // namespace

Manifest upgrade_v1(const Field& root) {
    root.object({"format", "version", "builder", "backend", "precision", "model", "sampler", "rows_per_sample",
                 "guidance", "flops_ratio", "prepare", "programs", "baseline_program", "steps", "arena", "weights",
                 "tables", "files"});
    const Field prepare = root["prepare"], model = root["model"];
    prepare.object({"file", "tables", "conditioning"});
    Manifest manifest;
    manifest.builder = root["builder"].string();
    manifest.backend = root["backend"].string();
    manifest.precision = root["precision"].one_of({"fp32"});
    manifest.model = decode_model(model);
    add_label_port(manifest, model["num_classes"].integer(), model["null_class"].integer());
    const Layers layers = decode_layers(model);
    manifest.sampler = decode_sampler_v1(root["sampler"]);
    manifest.rows_per_sample = root["rows_per_sample"].integer();
    manifest.guidance = root["guidance"].number();
    manifest.flops_ratio = root["flops_ratio"].number();
    manifest.forecasts = 0;
    manifest.tensors = decode_each(prepare["conditioning"], decode_conditioning);
    Names names;
    for (const auto& tensor : manifest.tensors) names.push_back(tensor.name);
    manifest.prepare = {{prepare["file"].string(), {}, {"labels"}, prepare["tables"].strings(), names}};
    manifest.programs = decode_each(root["programs"], [&](const Field& field) -> Program {
        field.object({"file", "reads", "writes", "flops"});
        return {field["file"].string(),
                {},
                names,
                decode_layer_values(field["reads"], layers),
                decode_layer_values(field["writes"], layers),
                field["flops"].integer()};
    });
    manifest.baseline_program = root["baseline_program"].integer();
    manifest.steps = decode_each(root["steps"], decode_step);
    manifest.arena = decode_layer_arena(root["arena"], manifest, layers);
    manifest.weights = {root["weights"].string()};
    manifest.tables = root["tables"].string();
    manifest.files = decode_files(root["files"]);
    return manifest;
}

}  // namespace soda
