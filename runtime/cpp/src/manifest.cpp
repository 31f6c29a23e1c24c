// Decode a manifest of version 5, or hand it on to an older version's decoder; consistency.cpp checks its numbers.
#include "manifest.hpp"

#include <algorithm>

#include "errors.hpp"
#include "manifest_parts.hpp"

namespace soda {
namespace {

using SlotNumbers = std::map<std::string, int64_t>;  // name -> index

Model decode_model(const Field& field) {
    field.object({"name", "family", "hash", "latent_shape", "output", "sites"});
    return {field["name"].string(),
            field["family"].string(),
            field["hash"].string(),
            field["latent_shape"].integers(),
            field["output"].one_of({"pixels", "latents"}) == "pixels",
            field["sites"].integer()};
}

PrepareProgram decode_prepare(const Field& field) {
    field.object({"file", "weights", "inputs", "tables", "outputs"});
    return {field["file"].string(), field["weights"].string(), field["inputs"].strings(), field["tables"].strings(),
            field["outputs"].strings()};
}

Slot decode_slot(const Field& field) {
    field.object({"name", "shape", "dtype"});
    return {field["name"].string(), field["shape"].integers(),
            field["dtype"].one_of({"float32", "float16", "bfloat16"})};
}

// "12.ff@1" is the value before the latest of slot "12.ff".
SlotValue decode_value(const Field& field, const SlotNumbers& numbers) {
    const std::string text = field.string();
    const size_t end = text.size() < 2 ? 0 : text.size() - 2;
    const bool aged = end > 0 && text[end] == '@' && (text[end + 1] == '1' || text[end + 1] == '2');
    const auto found = numbers.find(aged ? text.substr(0, end) : text);
    return {found == numbers.end() ? -1 : found->second, aged ? text[end + 1] - '0' : 0, text};
}

Program decode_program(const Field& field, const SlotNumbers& numbers) {
    field.object({"file", "weights", "inputs", "reads", "writes", "flops"});
    const auto value = [&](const Field& each) { return decode_value(each, numbers); };
    return {field["file"].string(),
            field["weights"].string(),
            field["inputs"].strings(),
            decode_each(field["reads"], value),
            decode_each(field["writes"], value),
            field["flops"].integer()};
}

Arena decode_arena(const Field& field) {
    field.object({"bytes", "lower_bound_bytes", "naive_bytes"});
    return {field["bytes"].integer(), field["lower_bound_bytes"].integer(), field["naive_bytes"].integer()};
}

Manifest decode_manifest(const Field& root) {
    root.object({"format",  "version", "builder",         "backend",  "precision",   "model",
                 "ports",   "sampler", "rows_per_sample", "guidance", "flops_ratio", "forecasts",
                 "tensors", "prepare", "tokenizers",      "slots",    "programs",    "baseline_program",
                 "steps",   "finish",  "arena",           "weights",  "tables",      "files"});
    Manifest manifest;
    manifest.builder = root["builder"].string();
    manifest.backend = root["backend"].string();
    manifest.precision = root["precision"].one_of({"fp32", "fp16", "bf16"});
    manifest.model = decode_model(root["model"]);
    manifest.ports = decode_each(root["ports"], decode_port);
    manifest.tokenizers = decode_each(root["tokenizers"], decode_tokenizer);
    manifest.sampler = decode_sampler(root["sampler"]);
    manifest.rows_per_sample = root["rows_per_sample"].integer();
    manifest.guidance = root["guidance"].number();
    manifest.flops_ratio = root["flops_ratio"].number();
    manifest.forecasts = root["forecasts"].integer();
    manifest.tensors = decode_each(root["tensors"], decode_tensor);
    manifest.prepare = decode_each(root["prepare"], decode_prepare);
    manifest.slots = decode_each(root["slots"], decode_slot);
    SlotNumbers numbers;
    for (size_t i = 0; i < manifest.slots.size(); ++i) numbers[manifest.slots[i].name] = int64_t(i);
    manifest.programs = decode_each(root["programs"], [&](const Field& each) { return decode_program(each, numbers); });
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

// A manifest of version 2 or 3 with the keys of version 4, which has one more for each version.
void add_keys(Json& value) {
    if (value["version"] == 2) add_key(value, "$", "forecasts", 0);
    const auto sampler = value.find("sampler");  // what else it is, decoding says
    if (sampler != value.end() && sampler->is_object()) add_key(*sampler, "$.sampler", "fitted", false);
}

Manifest decode_any_version(Json& value, const std::string& where) {
    if (!value.is_object() || !value.contains("format") || value["format"] != "soda-bundle")
        throw BundleError(where + ": not a soda bundle manifest; give the folder that `soda-export build` made");
    const Json version = value.contains("version") ? value["version"] : Json();
    const int64_t number =
        version.is_number_integer() && version >= 1 && version <= current_version ? version.get<int64_t>() : 0;
    if (number == 0)
        throw BundleError(say(where, ": format version ", brief(version).substr(0, 40), ", this runtime reads 1 to ",
                              current_version, "; update soda-runtime or rebuild the bundle"),
                          SODA_BUNDLE_VERSION);
    require_printable(value);
    if (number == 2 || number == 3) add_keys(value);
    Manifest manifest = number == 1                 ? upgrade_v1(Field(value))
                        : number == current_version ? decode_manifest(Field(value))
                                                    : upgrade_v4(Field(value));
    manifest.version = number;
    return manifest;
}

}  // namespace

std::string decode_kind(const Field& field, std::initializer_list<const char*> kinds) {
    if (!field.json().is_object()) throw StrictJsonError(field.where() + ": expected an object");
    const Json kind = field.json().contains("kind") ? field.json()["kind"] : Json();
    return Field(kind, field.where() + ".kind").one_of(kinds);
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

Step decode_step(const Field& field) {
    field.object({"program", "read_offsets", "write_offsets"});
    return {field["program"].integer(), field["read_offsets"].integers(), field["write_offsets"].integers()};
}

std::map<std::string, FileEntry> decode_files(const Field& field) {
    std::map<std::string, FileEntry> files;
    for (const auto& [name, entry] : field.entries()) {
        entry.object({"bytes", "sha256"});
        files[name] = {entry["bytes"].integer(), entry["sha256"].string()};
    }
    return files;
}

const RequestPort* find_port(const Manifest& manifest, const std::string& name) {
    const auto found = std::find_if(manifest.ports.begin(), manifest.ports.end(),
                                    [&](const RequestPort& port) { return port.name == name; });
    return found == manifest.ports.end() ? nullptr : &*found;
}

bool is_encoder(const Manifest& manifest, const PrepareProgram& program) {
    return program.tables.empty() && !program.outputs.empty() && find_port(manifest, program.outputs[0]);
}

bool has_negatives(const Manifest& manifest, const RequestPort& port) {
    return manifest.rows_per_sample == 2 && port.kind != PortKind::label && port.kind != PortKind::hint &&
           port.kind != PortKind::scalar;
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
