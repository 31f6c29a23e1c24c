// What a bundle says of itself, in the structs of the C header. Strings are the bundle's or static.
#pragma once

#include "bundle.hpp"
#include "soda_runtime.h"

namespace soda {

soda_info describe_bundle(const Bundle& bundle);
std::vector<soda_port> describe_inputs(const Manifest& manifest);
std::vector<soda_port> describe_outputs(const Bundle& bundle);
soda_slot describe_slot(const Manifest& manifest, size_t index);

}  // namespace soda
