// Names, types and shapes of an ONNX Runtime session's inputs and outputs.
#pragma once

#include <map>

#include "host.hpp"
#include "ort_library.hpp"

namespace soda {

constexpr ONNXTensorElementDataType element_types[] = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64};  // by soda dtype

// Names, types and shapes of a session's inputs or outputs.
class PortReader {
public:
    PortReader(const OrtApi& ort, OrtSession* session, const std::string& path, bool inputs)
        : ort_(ort), session_(session), path_(path), inputs_(inputs) {
        OrtAllocator* allocator = nullptr;
        check_ort(ort, ort.GetAllocatorWithDefaultOptions(&allocator), path);
        size_t count = 0;
        check_ort(ort, (inputs ? ort.SessionGetInputCount : ort.SessionGetOutputCount)(session, &count), path);
        for (size_t i = 0; i < count; ++i) {
            char* name = nullptr;
            check_ort(ort, (inputs ? ort.SessionGetInputName : ort.SessionGetOutputName)(session, i, allocator, &name),
                      path);
            const std::string copy = name;
            check_ort(ort, ort.AllocatorFree(allocator, name), path);
            ports[copy] = read(i);
        }
    }

    std::map<std::string, FoundPort> ports;

private:
    FoundPort read(size_t index) const {
        OrtTypeInfo* type = nullptr;
        check_ort(ort_,
                  (inputs_ ? ort_.SessionGetInputTypeInfo : ort_.SessionGetOutputTypeInfo)(session_, index, &type),
                  path_);
        const OrtHandle<OrtTypeInfo> held(type, ort_.ReleaseTypeInfo);
        const OrtTensorTypeAndShapeInfo* tensor = nullptr;
        check_ort(ort_, ort_.CastTypeInfoToTensorInfo(type, &tensor), path_);
        if (!tensor) return {-1, {}, "no tensor"};
        ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        size_t rank = 0;
        check_ort(ort_, ort_.GetTensorElementType(tensor, &element), path_);
        check_ort(ort_, ort_.GetDimensionsCount(tensor, &rank), path_);
        FoundPort port{-1, std::vector<int64_t>(rank), ""};
        check_ort(ort_, ort_.GetDimensions(tensor, port.dims.data(), rank), path_);
        for (int32_t dtype = 0; dtype < 4; ++dtype)
            if (element_types[dtype] == element) port.dtype = dtype;
        port.text = say("of ONNX type ", int(element), " [");
        for (size_t i = 0; i < rank; ++i) port.text += say(i ? ", " : "", port.dims[i]);
        port.text += "]";
        return port;
    }

    const OrtApi& ort_;
    OrtSession* session_;
    const std::string& path_;
    bool inputs_;
};

}  // namespace soda
