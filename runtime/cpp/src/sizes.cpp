#include "sizes.hpp"

#include <algorithm>
#include <set>

#include "consistency.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "manifest_parts.hpp"
#include "names.hpp"
#include "policy.hpp"

namespace soda {
namespace {

constexpr int64_t most_sizes = 64, most_pixels = 1 << 16, max_sizes_bytes = 1 << 20;

SizeEntry decode_entry(const Field& field) {
    field.object({"height", "width", "manifest"});
    return {field["height"].integer(), field["width"].integer(), field["manifest"].string()};
}

std::string size_problem(const SizeEntry& entry, const Manifest& manifest) {
    if (!manifest.finish.empty() && made_size(manifest) != std::make_pair(entry.height, entry.width))
        return say(shown(entry.manifest), " does not make ", entry.height, "x", entry.width);
    return "";
}

std::string list_problem(const std::vector<SizeEntry>& entries, const Manifest& manifest) {
    if (entries.empty() || int64_t(entries.size()) > most_sizes)
        return say(entries.size(), " sizes, expected 1 .. ", most_sizes);
    std::set<std::pair<int64_t, int64_t>> sizes;
    std::set<std::string> files = {sizes_name};
    for (const SizeEntry& entry : entries) {
        if (std::min(entry.height, entry.width) < 1 || std::max(entry.height, entry.width) > most_pixels)
            return say("size ", entry.height, " x ", entry.width, " is outside 1 .. ", most_pixels);
        if (!sizes.emplace(entry.height, entry.width).second) return "a size stands twice";
    }
    if (entries[0].manifest != manifest_name)
        return say("the first manifest is ", shown(entries[0].manifest), ", expected '", manifest_name, "'");
    for (const SizeEntry& entry : entries) {
        if (!files.insert(entry.manifest).second) return "a manifest stands twice";
        if (entry.manifest != manifest_name && manifest.files.count(entry.manifest) == 0)
            return say("file ", shown(entry.manifest), " is used but not listed in the manifest");
    }
    return size_problem(entries[0], manifest);
}

bool same_file(const FileEntry& a, const FileEntry& b) {
    return a.bytes == b.bytes && a.sha256 == b.sha256;
}

template <class T, class Same>
bool all_same(const std::vector<T>& a, const std::vector<T>& b, Same same) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

// Hints are as large as the image.
bool same_port(const RequestPort& a, const RequestPort& b) {
    return a.name == b.name && a.dtype == b.dtype && a.kind == b.kind && a.num_classes == b.num_classes &&
           a.null_class == b.null_class && a.tokenizer == b.tokenizer && a.default_value == b.default_value &&
           a.least == b.least && a.most == b.most && (a.kind == PortKind::hint || a.shape == b.shape);
}

bool same_tokenizer(const Tokenizer& a, const Tokenizer& b) {
    return a.file == b.file && a.max_tokens == b.max_tokens && a.clean == b.clean && a.pad_id == b.pad_id;
}

bool same_model(const Model& a, const Model& b) {
    return a.name == b.name && a.family == b.family && a.hash == b.hash && a.pixels == b.pixels && a.sites == b.sites;
}

bool same_result(const Manifest& a, const Manifest& b) {
    if (a.finish.empty() || b.finish.empty()) return a.finish.empty() && b.finish.empty();
    return a.finish[0].kind == b.finish[0].kind;
}

}  // namespace

std::vector<SizeEntry> parse_sizes(std::string_view text, const std::string& where) {
    const Json value = parse_json(text);
    const Field root(value);
    if (!value.is_object() || value.value("format", Json()) != "soda-sizes" || value.value("version", Json()) != 1)
        throw BundleError(where + ": not a soda-sizes file of version 1; update soda-runtime or rebuild");
    require_printable(value);
    root.object({"format", "version", "sizes"});
    root["version"].integer();
    return decode_each(root["sizes"], decode_entry);
}

std::vector<SizeEntry> read_size_list(const std::string& folder, const Manifest& manifest) {
    if (manifest.version != current_version || manifest.files.count(sizes_name) == 0) return {};
    const std::string path = folder + "/" + sizes_name;
    std::vector<SizeEntry> entries;
    try {
        const int64_t bytes = stamp_of(path).bytes;
        if (bytes > max_sizes_bytes)
            throw StrictJsonError(say(bytes, " bytes, at most ", max_sizes_bytes, " are read"));
        entries = parse_sizes(read_bytes(path, 0, bytes), path);
    } catch (const StrictJsonError& error) {
        throw BundleError(say(path, ": ", error.what(), "; ", rebuild));
    }
    const std::string problem = list_problem(entries, manifest);
    if (!problem.empty()) throw BundleError(say(path, ": ", problem, "; ", rebuild));
    return entries;
}

std::string sized_policy(const std::string& manifest) {
    const std::string beginning = "manifest";
    const bool usual = manifest.compare(0, beginning.size(), beginning) == 0;
    return "policy" + (usual ? manifest.substr(beginning.size()) : manifest);
}

std::string sized_problem(const SizeEntry& entry, const Manifest& sized, const Manifest& first) {
    if (sized.version != current_version) return say("version ", sized.version, ", expected ", current_version);
    for (const auto& [name, file] : sized.files) {
        const auto found = first.files.find(name);
        if (name == sizes_name || name == policy_name || found == first.files.end() || !same_file(file, found->second))
            return say("files[", shown(name), "] is not as ", manifest_name, " has it");
    }
    if (sized.files.count(sized_policy(entry.manifest)) != first.files.count(policy_name))
        return "of the sizes some have a policy and others have none";
    const std::pair<const char*, bool> common[] = {
        {"backend", sized.backend == first.backend},
        {"precision", sized.precision == first.precision},
        {"model", same_model(sized.model, first.model)},
        {"ports", all_same(sized.ports, first.ports, same_port)},
        {"tokenizers", all_same(sized.tokenizers, first.tokenizers, same_tokenizer)},
        {"sampler", sized.sampler.name == first.sampler.name && sized.sampler.steps == first.sampler.steps &&
                        sized.sampler.stochastic == first.sampler.stochastic},
        {"rows_per_sample", sized.rows_per_sample == first.rows_per_sample},
        {"guidance", sized.guidance == first.guidance},
        {"weights", sized.weights == first.weights},
        {"finish", same_result(sized, first)}};
    for (const auto& [what, same] : common)
        if (!same) return say(what, ": is not that of ", manifest_name, ", so this is no size of the same model");
    return size_problem(entry, sized);
}

std::pair<int64_t, int64_t> made_size(const Manifest& manifest) {
    if (manifest.finish.empty() && !manifest.model.pixels) return {0, 0};
    if (!manifest.finish.empty() && manifest.finish[0].kind == ResultKind::audio) return {0, 0};
    const Sizes& shape = manifest.finish.empty() ? manifest.model.latent_shape : manifest.finish[0].shape;
    return {shape[shape.size() - 2], shape[shape.size() - 1]};
}

}  // namespace soda
