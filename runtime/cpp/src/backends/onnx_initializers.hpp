// Which weights an ONNX model takes from which file: the external initializers of its main graph by name, and the files
// of all of its tensors.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace soda {

struct ExternalInitializer {
    std::string name, file;
    int32_t data_type = 0;  // onnx.TensorProto.DataType
    std::vector<int64_t> dims;
};

// model: bytes of a ModelProto. Anything malformed is left to the engine library to judge: the list ends there.
std::vector<ExternalInitializer> list_external_initializers(std::string_view model);

// Files that any tensor of the model is taken from, at whatever depth. False: it says something of locations, and is
// malformed.
bool find_external_locations(std::string_view model, std::set<std::string>& locations);

}  // namespace soda
