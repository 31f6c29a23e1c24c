// sizes.json: the sizes of a bundle that has several, each with a manifest of its own. BUNDLE.md section 16.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "manifest.hpp"

namespace soda {

constexpr const char* sizes_name = "sizes.json";

// In pixels, and the file that is its manifest.
struct SizeEntry {
    int64_t height, width;
    std::string manifest;
};

// policy: the name of the size's policy, where it has one.
struct SizedManifest {
    int64_t height, width;
    Manifest manifest;
    std::string policy;
};

// The name of the policy of a size, by that of its manifest: `manifest-512x768.json` has `policy-512x768.json`.
std::string sized_policy(const std::string& manifest);

// The text of a sizes.json, its types alone checked. Raises StrictJsonError, BundleError for another format.
std::vector<SizeEntry> parse_sizes(std::string_view text, const std::string& where);
// sizes.json of a bundle that lists it, held against its manifest; empty where it does not. Raises BundleError.
std::vector<SizeEntry> read_size_list(const std::string& folder, const Manifest& manifest);
// Why `sized` is no manifest of another size of `first`, the bundle's own; "" where it is.
std::string sized_problem(const SizeEntry& entry, const Manifest& sized, const Manifest& first);
// Height and width of what a bundle makes; {0, 0} where that is sound, or latents.
std::pair<int64_t, int64_t> made_size(const Manifest& manifest);

}  // namespace soda
