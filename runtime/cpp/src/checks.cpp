#include "checks.hpp"

#include <algorithm>
#include <set>

#include "backends/onnx_initializers.hpp"
#include "backends/trt_index.hpp"
#include "consistency.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "policy.hpp"
#include "tensors.hpp"

namespace soda {
namespace {

constexpr int64_t small_file_bytes = 64 << 20;  // files up to this size are hashed at every open
constexpr int64_t max_tables_bytes = 1 << 30;   // tables are read whole
constexpr int64_t max_tokenizer_bytes = 64 << 20;

void require_at_most(const std::string& path, const FileEntry& entry, int64_t limit) {
    if (entry.bytes > limit)
        throw BundleError(say(path, ": ", entry.bytes, " bytes, at most ", limit, " are read; ", rebuild));
}

// What is read whole is not too large.
void require_readable(const std::string& folder, const Manifest& manifest) {
    require_at_most(folder + "/" + manifest.tables, manifest.files.at(manifest.tables), max_tables_bytes);
    for (const auto& tokenizer : manifest.tokenizers)
        require_at_most(folder + "/" + tokenizer.file, manifest.files.at(tokenizer.file), max_tokenizer_bytes);
}

void check_hash(const std::string& path, const FileEntry& entry) {
    if (sha256_of(path) != entry.sha256)
        throw BundleError(say(path, ": its SHA-256 is not the manifest's, the file was changed or damaged; ", rebuild));
}

// Files that a graph's tensors are taken from.
std::set<std::string> graph_locations(const std::string& path) {
    const MappedFile graph(path);
    std::set<std::string> files;
    if (!find_external_locations({graph.data(), graph.size()}, files))
        throw BundleError(say(path, ": not an ONNX model; copy or build the bundle again"));
    return files;
}

// Programs take weights from files that the manifest lists, so that these were hashed and lie in the folder.
void check_named_files(const std::string& folder, const Manifest& manifest, const std::string& own_policy) {
    const auto check = [&](const std::string& program, const std::string& file) {
        if (manifest.files.count(file) == 0)
            throw BundleError(say(folder, "/", program, ": takes weights from ", shown(file, 120),
                                  ", which the manifest does not list; ", rebuild));
    };
    const auto policy = read_rules(folder, manifest, own_policy);
    if (manifest.backend == "ort" || manifest.backend == "openvino") {
        Names programs = program_files(manifest);
        if (policy) programs.push_back(policy->signals);
        for (const auto& program : programs)
            for (const auto& file : graph_locations(folder + "/" + program)) check(program, file);
    } else if (manifest.backend == "trt" || manifest.backend == "trt_rtx") {
        const EngineIndex index = read_engine_index(folder);
        for (const auto& [program, file] : index.weights_file)
            if (index.weights != "baked" && !file.empty()) check(program, file);
    }
}

}  // namespace

Manifest open_manifest(const std::string& folder, const std::string& name) {
    const std::string path = folder + "/" + name;
    const int64_t bytes = require_regular_file(path, max_manifest_bytes).bytes;
    Manifest manifest = parse_manifest(read_bytes(path, 0, bytes), path);
    const std::string problem = first_problem(manifest);
    if (!problem.empty()) throw BundleError(say(path, ": ", problem, "; ", rebuild));
    return manifest;
}

std::vector<SizedManifest> open_sizes(const std::string& folder, const Manifest& manifest) {
    std::vector<SizedManifest> sizes;
    for (const SizeEntry& entry : read_size_list(folder, manifest)) {
        sizes.push_back({entry.height, entry.width, manifest, sized_policy(entry.manifest)});
        if (entry.manifest == manifest_name) continue;
        Manifest sized = open_manifest(folder, entry.manifest);
        const std::string problem = sized_problem(entry, sized, manifest);
        if (!problem.empty()) throw BundleError(say(folder, "/", entry.manifest, ": ", problem, "; ", rebuild));
        require_readable(folder, sized);
        check_named_files(folder, sized, sizes.back().policy);
        sizes.back().manifest = std::move(sized);
    }
    return sizes;
}

CheckedFiles::Stamps check_files(const std::string& folder, const Manifest& manifest) {
    for (const auto& [name, entry] : manifest.files) require_regular_file(folder + "/" + name, entry.bytes);
    require_readable(folder, manifest);
    for (const auto& name : manifest.weights) read_header(folder + "/" + name);
    CheckedFiles::Stamps stamps;
    for (const auto& [name, entry] : manifest.files) {
        const std::string path = folder + "/" + name;
        const FileStamp stamp = stamps[name] = stamp_of(path);
        if (stamp.bytes != entry.bytes)
            throw BundleError(say(path, ": ", stamp.bytes, " bytes, the manifest says ", entry.bytes, "; ", rebuild));
        const bool weights =
            std::find(manifest.weights.begin(), manifest.weights.end(), name) != manifest.weights.end();
        if (entry.bytes <= small_file_bytes && !weights) {
            check_hash(path, entry);
        } else if (!is_remembered(path, entry)) {
            check_hash(path, entry);
            remember(path, entry, stamp);
        }
    }
    check_named_files(folder, manifest, policy_name);
    return stamps;
}

}  // namespace soda
