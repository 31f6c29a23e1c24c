// Which weights an ONNX model takes from which file, by name: the external initializers of its main graph.
#pragma once

#include <cstdint>
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

}  // namespace soda
