// Hold a manifest against itself: every number that is later a size, an offset or an index is bounded here.
#pragma once

#include <string>

#include "manifest.hpp"

namespace soda {

// The first inconsistency in words, or "".
std::string first_problem(const Manifest& manifest);

// Of all programs.
Names program_files(const Manifest& manifest);
// Names of all files that the manifest gives a use, one for each use.
Names files_in_use(const Manifest& manifest);

// The same for the calls of a video's programs, once every number is in its range (chunks.cpp).
std::string chunk_problem(const Manifest& manifest);
// The same for the programs before the steps, once all of these hold (preparation.cpp).
std::string prepare_problem(const Manifest& manifest);
// The same for schedule and cache slots, once everything else holds (schedule.cpp).
std::string program_problem(const Manifest& manifest);

}  // namespace soda
