// Decode a manifest of version 2 to 4; the checks of its numbers are in consistency.cpp.
#include "manifest.hpp"

#include "errors.hpp"
#include "manifest_parts.hpp"

namespace soda {
namespace {

constexpr int64_t current_version = 4;

void decode_condition(const Field& field, Model& model) {
    if (!field.json().is_object()) throw StrictJsonError(field.where() + ": expected an object");
    const Json kind = field.json().contains("kind") ? field.json()["kind"] : Json();
    if (Field(kind, field.where() + ".kind").one_of({"label", "text"}) == "label") {
        field.object({"kind", "num_classes", "null_class"});
        model.label = LabelCondition{field["num_classes"].integer(), field["null_class"].integer()};
    } else {
        field.object({"kind", "max_tokens", "embed_width", "tokenizer"});
        model.text =
            TextCondition{field["max_tokens"].integer(), field["embed_width"].integer(), field["tokenizer"].string()};
    }
}

Model decode_model(const Field& field) {
    field.object({"name", "family", "hash", "latent_shape", "num_layers", "modules", "num_tokens", "width", "condition",
                  "output"});
    Model model;
    model.name = field["name"].string();
    model.family = field["family"].string();
    model.hash = field["hash"].string();
    model.latent_shape = field["latent_shape"].integers(3);
    model.num_layers = field["num_layers"].integer();
    model.modules = field["modules"].strings();
    model.num_tokens = field["num_tokens"].integer();
    model.width = field["width"].integer();
    decode_condition(field["condition"], model);
    model.pixels = field["output"].one_of({"pixels", "latents"}) == "pixels";
    return model;
}

Sampler decode_sampler(const Field& field) {
    field.object(
        {"name", "steps", "timesteps", "state_size", "stochastic", "learned_variance", "fitted", "initial_scale"});
    return {field["name"].string(),
            field["steps"].integer(),
            decode_each(field["timesteps"], [](const Field& each) { return each.number(); }),
            field["state_size"].integer(),
            field["stochastic"].boolean(),
            field["learned_variance"].boolean(),
            field["fitted"].boolean(),
            field["initial_scale"].number()};
}

PreparedTensor decode_tensor(const Field& field) {
    field.object({"name", "dtype", "rows", "per_step", "shape"});
    return {field["name"].string(), field["dtype"].one_of({"float32", "float16", "bfloat16"}), field["rows"].boolean(),
            field["per_step"].boolean(), field["shape"].integers()};
}

PrepareProgram decode_prepare(const Field& field) {
    field.object({"file", "inputs", "tables", "outputs"});
    return {field["file"].string(), field["inputs"].strings(), field["tables"].strings(), field["outputs"].strings()};
}

Program decode_program(const Field& field) {
    field.object({"file", "inputs", "reads", "writes", "flops"});
    return {field["file"].string(), field["inputs"].strings(), field["reads"].strings(), field["writes"].strings(),
            field["flops"].integer()};
}

FinishProgram decode_finish(const Field& field) {
    field.object({"file", "shape"});
    return {field["file"].string(), field["shape"].integers(3)};
}

Manifest decode_manifest(const Field& root) {
    root.object({"format",           "version",  "builder",     "backend",   "precision", "model",   "sampler",
                 "rows_per_sample",  "guidance", "flops_ratio", "forecasts", "tensors",   "prepare", "programs",
                 "baseline_program", "steps",    "finish",      "arena",     "weights",   "tables",  "files"});
    Manifest manifest;
    manifest.builder = root["builder"].string();
    manifest.backend = root["backend"].string();
    manifest.precision = root["precision"].one_of({"fp32", "fp16", "bf16"});
    manifest.model = decode_model(root["model"]);
    manifest.sampler = decode_sampler(root["sampler"]);
    manifest.rows_per_sample = root["rows_per_sample"].integer();
    manifest.guidance = root["guidance"].number();
    manifest.flops_ratio = root["flops_ratio"].number();
    manifest.forecasts = root["forecasts"].integer();
    manifest.tensors = decode_each(root["tensors"], decode_tensor);
    manifest.prepare = decode_each(root["prepare"], decode_prepare);
    manifest.programs = decode_each(root["programs"], decode_program);
    manifest.baseline_program = root["baseline_program"].integer();
    manifest.steps = decode_each(root["steps"], decode_step);
    manifest.finish = decode_each(root["finish"], decode_finish);
    manifest.arena = decode_arena(root["arena"]);
    manifest.weights = root["weights"].strings();
    manifest.tables = root["tables"].string();
    manifest.files = decode_files(root["files"]);
    return manifest;
}

void add_key(Json& object, const std::string& where, const char* key, Json value) {
    if (object.contains(key)) throw StrictJsonError(say(where, ": unknown key '", key, "'"));
    object[key] = std::move(value);
}

// A manifest of version 2 or 3 in the terms of the current one, which has one more key for each version.
void upgrade(Json& value) {
    if (value["version"] == 2) add_key(value, "$", "forecasts", 0);
    const auto sampler = value.find("sampler");  // what else it is, decoding says
    if (sampler != value.end() && sampler->is_object()) add_key(*sampler, "$.sampler", "fitted", false);
}

Manifest decode_any_version(Json& value, const std::string& where) {
    if (!value.is_object() || !value.contains("format") || value["format"] != "soda-bundle")
        throw BundleError(where + ": not a soda bundle manifest; give the folder that `soda-export build` made");
    const Json version = value.contains("version") ? value["version"] : Json();
    const bool whole = version.is_number_integer();
    if (whole && version == 1) return upgrade_v1(Field(value));
    if (whole && (version == 2 || version == 3)) {
        upgrade(value);
        return decode_manifest(Field(value));
    }
    if (!whole || version != current_version)
        throw BundleError(say(where, ": format version ", brief(version).substr(0, 40), ", this runtime reads 1 to ",
                              current_version, "; update soda-runtime or rebuild the bundle"),
                          SODA_BUNDLE_VERSION);
    return decode_manifest(Field(value));
}

}  // namespace

Step decode_step(const Field& field) {
    field.object({"program", "read_offsets", "write_offsets"});
    return {field["program"].integer(), field["read_offsets"].integers(), field["write_offsets"].integers()};
}

Arena decode_arena(const Field& field) {
    field.object({"bytes", "lower_bound_bytes", "naive_bytes", "slot_bytes"});
    return {field["bytes"].integer(), field["lower_bound_bytes"].integer(), field["naive_bytes"].integer(),
            field["slot_bytes"].integer()};
}

std::map<std::string, FileEntry> decode_files(const Field& field) {
    std::map<std::string, FileEntry> files;
    for (const auto& [name, entry] : field.entries()) {
        entry.object({"bytes", "sha256"});
        files[name] = {entry["bytes"].integer(), entry["sha256"].string()};
    }
    return files;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
    try {
        Json value = parse_json(text);
        return decode_any_version(value, where);
    } catch (const StrictJsonError& error) {
        throw BundleError(say(where, ": ", error.what(), "; rebuild the bundle with this version of soda-export"));
    }
}

}  // namespace soda
