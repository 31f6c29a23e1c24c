#include "ort_weights.hpp"

#include "../errors.hpp"

namespace soda {
namespace {

// Bytes of one element of the types that weights have; 0 for others, which the library reads itself.
int64_t element_bytes(int32_t data_type) {
    switch (data_type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
            return 4;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
            return 2;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
            return 8;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
            return 1;
        default:
            return 0;
    }
}

// On a device, smaller weights are each session's: many are shapes, which ONNX Runtime wants on the host.
constexpr int64_t least_device_bytes = 1024;

// Bytes of a tensor, or -1 where its shape is no shape.
int64_t tensor_bytes(const ExternalInitializer& tensor) {
    int64_t bytes = element_bytes(tensor.data_type);
    for (int64_t side : tensor.dims)
        if (side < 0 || __builtin_mul_overflow(bytes, side, &bytes)) return -1;
    return bytes;
}

}  // namespace

SharedWeights::SharedWeights(const OrtApi& ort, const OrtDevice& device)
    : ort_(ort), device_(device), container_(nullptr, ort.ReleasePrepackedWeightsContainer) {
    OrtPrepackedWeightsContainer* container = nullptr;
    check_ort(ort, ort.CreatePrepackedWeightsContainer(&container), "ONNX Runtime");
    container_.reset(container);
}

SharedWeights::File::File(const std::string& path, const OrtDevice& device) : mapped(path) {
    if (!device.cuda()) return;
    copy = std::make_unique<DeviceMemory>(device.cuda(), int64_t(mapped.size()));
    copy->write(0, mapped.data(), int64_t(mapped.size()));
}

char* SharedWeights::File::at(int64_t offset, int64_t bytes) const {
    return copy ? copy->at(offset, bytes) : const_cast<char*>(mapped.data()) + offset;
}

void SharedWeights::add_to(OrtSessionOptions* options, const std::string& path) {
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    const MappedFile model(path);
    const std::lock_guard<std::mutex> guard(lock_);
    for (const ExternalInitializer& tensor : list_external_initializers({model.data(), model.size()}))
        if (const OrtValue* value = value_of(folder, tensor))
            check_ort(ort_, ort_.AddInitializer(options, tensor.name.c_str(), value), path);
}

const OrtValue* SharedWeights::value_of(const std::string& folder, const ExternalInitializer& tensor) {
    const int64_t bytes = tensor_bytes(tensor);
    if (device_.cuda() && bytes < least_device_bytes) return nullptr;
    const bool plain = !tensor.file.empty() && tensor.file.find('/') == std::string::npos && tensor.file != "..";
    if (bytes <= 0 || tensor.offset < 0 || !plain || (tensor.length >= 0 && tensor.length != bytes)) return nullptr;
    std::string key = say(tensor.file, "|", tensor.offset, "|", tensor.data_type);
    for (int64_t side : tensor.dims) key += say("|", side);
    const auto known = values_.find(key);
    if (known != values_.end()) return known->second.get();
    std::unique_ptr<File>& file = files_[tensor.file];
    if (!file) {
        require_regular_file(folder + tensor.file, INT64_MAX);
        file = std::make_unique<File>(folder + tensor.file, device_);
    }
    if (tensor.offset > int64_t(file->mapped.size()) - bytes) return nullptr;
    OrtValue* value = nullptr;
    check_ort(ort_,
              ort_.CreateTensorWithDataAsOrtValue(device_.memory(), file->at(tensor.offset, bytes), size_t(bytes),
                                                  tensor.dims.data(), tensor.dims.size(),
                                                  ONNXTensorElementDataType(tensor.data_type), &value),
              folder + tensor.file);
    return values_.emplace(key, OrtHandle<OrtValue>(value, ort_.ReleaseValue)).first->second.get();
}

void SharedWeights::drop_pages() const {
    const std::lock_guard<std::mutex> guard(lock_);
    for (const auto& [name, file] : files_) file->mapped.drop_pages();
}

}  // namespace soda
