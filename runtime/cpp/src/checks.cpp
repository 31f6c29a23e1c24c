#include "checks.hpp"

#include <algorithm>

#include "consistency.hpp"
#include "errors.hpp"
#include "files.hpp"
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

void check_hash(const std::string& path, const FileEntry& entry) {
    if (sha256_of(path) != entry.sha256)
        throw BundleError(say(path, ": its SHA-256 is not the manifest's, the file was changed or damaged; ", rebuild));
}

}  // namespace

Manifest open_manifest(const std::string& folder) {
    const std::string path = folder + "/" + manifest_name;
    const int64_t bytes = require_regular_file(path, max_manifest_bytes);
    Manifest manifest = parse_manifest(read_bytes(path, 0, bytes), path);
    const std::string problem = first_problem(manifest);
    if (!problem.empty()) throw BundleError(say(path, ": ", problem, "; ", rebuild));
    return manifest;
}

void check_files(const std::string& folder, const Manifest& manifest) {
    for (const auto& [name, entry] : manifest.files) require_regular_file(folder + "/" + name, entry.bytes);
    require_at_most(folder + "/" + manifest.tables, manifest.files.at(manifest.tables), max_tables_bytes);
    for (const auto& tokenizer : manifest.tokenizers)
        require_at_most(folder + "/" + tokenizer.file, manifest.files.at(tokenizer.file), max_tokenizer_bytes);
    for (const auto& name : manifest.weights) read_header(folder + "/" + name);
    for (const auto& [name, entry] : manifest.files) {
        const std::string path = folder + "/" + name;
        const int64_t bytes = stamp_of(path).bytes;
        if (bytes != entry.bytes)
            throw BundleError(say(path, ": ", bytes, " bytes, the manifest says ", entry.bytes, "; ", rebuild));
        const bool weights =
            std::find(manifest.weights.begin(), manifest.weights.end(), name) != manifest.weights.end();
        if (entry.bytes <= small_file_bytes && !weights) {
            check_hash(path, entry);
        } else if (!is_remembered(path, entry)) {
            check_hash(path, entry);
            remember(path, entry);
        }
    }
}

}  // namespace soda
