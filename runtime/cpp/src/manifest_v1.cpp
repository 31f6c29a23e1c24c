// Read manifests of format version 1: the same bundle in the terms of the current version.
#include "errors.hpp"
#include "manifest_parts.hpp"

namespace soda {
namespace {

Model decode_model(const Field& field) {
    field.object({"name", "family", "hash", "latent_shape", "num_layers", "modules", "num_tokens", "width",
                  "num_classes", "null_class", "output"});
    Model model;
    model.name = field["name"].string();
    model.family = field["family"].string();
    model.hash = field["hash"].string();
    model.latent_shape = field["latent_shape"].integers(3);
    model.num_layers = field["num_layers"].integer();
    model.modules = field["modules"].strings();
    model.num_tokens = field["num_tokens"].integer();
    model.width = field["width"].integer();
    model.label = LabelCondition{field["num_classes"].integer(), field["null_class"].integer()};
    model.pixels = field["output"].one_of({"pixels", "latents"}) == "pixels";
    return model;
}

double decode_timestep(const Field& field) {
    const int64_t timestep = field.integer();
    if (timestep < 0 || timestep > int64_t(1) << 31)
        throw StrictJsonError(field.where() + ": expected a number within 0 .. 2147483648");
    return double(timestep);
}

Sampler decode_sampler(const Field& field) {
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

Program decode_program(const Field& field) {
    field.object({"file", "reads", "writes", "flops"});
    return {field["file"].string(), {}, field["reads"].strings(), field["writes"].strings(), field["flops"].integer()};
}

}  // namespace

Manifest upgrade_v1(const Field& root) {
    root.object({"format", "version", "builder", "backend", "precision", "model", "sampler", "rows_per_sample",
                 "guidance", "flops_ratio", "prepare", "programs", "baseline_program", "steps", "arena", "weights",
                 "tables", "files"});
    const Field prepare = root["prepare"];
    prepare.object({"file", "tables", "conditioning"});
    Manifest manifest;
    manifest.builder = root["builder"].string();
    manifest.backend = root["backend"].string();
    manifest.precision = root["precision"].one_of({"fp32"});
    manifest.model = decode_model(root["model"]);
    manifest.sampler = decode_sampler(root["sampler"]);
    manifest.rows_per_sample = root["rows_per_sample"].integer();
    manifest.guidance = root["guidance"].number();
    manifest.flops_ratio = root["flops_ratio"].number();
    manifest.forecasts = 0;
    manifest.tensors = decode_each(prepare["conditioning"], decode_conditioning);
    Names names;
    for (const auto& tensor : manifest.tensors) names.push_back(tensor.name);
    manifest.prepare = {{prepare["file"].string(), {"labels"}, prepare["tables"].strings(), names}};
    manifest.programs = decode_each(root["programs"], decode_program);
    for (auto& program : manifest.programs) program.inputs = names;
    manifest.baseline_program = root["baseline_program"].integer();
    manifest.steps = decode_each(root["steps"], decode_step);
    manifest.arena = decode_arena(root["arena"]);
    manifest.weights = {root["weights"].string()};
    manifest.tables = root["tables"].string();
    manifest.files = decode_files(root["files"]);
    return manifest;
}

}  // namespace soda
