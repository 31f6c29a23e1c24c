// Decide whether a bundle folder may be trusted, before anything is allocated or any engine is opened.
#pragma once

#include <string>

#include "files.hpp"
#include "manifest.hpp"
#include "sizes.hpp"

namespace soda {

// Read and check a manifest: schema, names, and every number against every other.
Manifest open_manifest(const std::string& folder, const std::string& name = manifest_name);
// The manifest of every size of a bundle whose files have been hashed, checked as manifest.json is, in the order of
// sizes.json; empty where there is none.
std::vector<SizedManifest> open_sizes(const std::string& folder, const Manifest& manifest);
// Sizes of all files, headers of the weights, hashes (small files at every open, others once per file), and that no
// program names a file besides. Gives the files' stamps.
CheckedFiles::Stamps check_files(const std::string& folder, const Manifest& manifest);

// Whether a file was hashed before and has the same path, size, times of modification and of change, and inode; the
// memory is a file in the user's cache folder, shared with the Python runtime (remembered.cpp).
bool is_remembered(const std::string& path, const FileEntry& entry);
// Keep that it has this hash, unless it has changed since it had the stamp `hashed`.
void remember(const std::string& path, const FileEntry& entry, const FileStamp& hashed);

}  // namespace soda
