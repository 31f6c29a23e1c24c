// engines.json: what the compiled engines of a bundle were built with, and where weights are that they lack.
#pragma once

#include <map>
#include <string>

namespace soda {

struct EngineIndex {
    std::string library, library_version;
    std::string weights;  // "baked", "stripped" or "inputs"
    int64_t max_batch;
    std::map<std::string, std::string> weights_file;  // by engine; "": none
};

// Read and check the engines.json beside an engine. Raises EngineError.
EngineIndex read_engine_index(const std::string& folder);

}  // namespace soda
