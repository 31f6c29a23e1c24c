#include "ort_weights.hpp"

#include "../errors.hpp"

namespace soda {
namespace {

// On a device, smaller weights are each session's: many are shapes, which ONNX Runtime wants on the host.
constexpr int64_t least_device_bytes = 1024;

// Types that weights have; tensors of others the library reads itself.
ONNXTensorElementDataType element_type(const std::string& dtype) {
    static const std::map<std::string, ONNXTensorElementDataType> types = {
        {"F64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},  {"F32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
        {"F16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {"BF16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
        {"I64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},   {"I32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
        {"I8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},     {"U8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8}};
    const auto found = types.find(dtype);
    return found == types.end() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED : found->second;
}

}  // namespace

SharedWeights::SharedWeights(const OrtApi& ort, const OrtDevice& device)
    : ort_(ort), device_(device), container_(nullptr, ort.ReleasePrepackedWeightsContainer) {
    OrtPrepackedWeightsContainer* container = nullptr;
    check_ort(ort, ort.CreatePrepackedWeightsContainer(&container), "ONNX Runtime");
    container_.reset(container);
}

SharedWeights::File::File(const std::string& path, const OrtDevice& device) : mapped(path), tensors(read_header(path)) {
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
    for (const ExternalInitializer& wanted : list_external_initializers({model.data(), model.size()}))
        if (const OrtValue* value = value_of(folder, wanted))
            check_ort(ort_, ort_.AddInitializer(options, wanted.name.c_str(), value), path);
}

const OrtValue* SharedWeights::value_of(const std::string& folder, const ExternalInitializer& wanted) {
    const bool plain = !wanted.file.empty() && wanted.file.find('/') == std::string::npos && wanted.file != "..";
    if (!plain) return nullptr;
    std::unique_ptr<File>& file = files_[wanted.file];
    if (!file) {
        require_regular_file(folder + wanted.file, INT64_MAX);
        file = std::make_unique<File>(folder + wanted.file, device_);
    }
    const auto found = file->tensors.find(wanted.name);
    if (found == file->tensors.end()) return nullptr;
    const TensorEntry& tensor = found->second;
    const int64_t bytes = tensor.end - tensor.begin;
    const bool same = element_type(tensor.dtype) == wanted.data_type && tensor.shape == wanted.dims;
    if (!same || bytes <= 0 || tensor.end > int64_t(file->mapped.size())) return nullptr;
    if (device_.cuda() && bytes < least_device_bytes) return nullptr;
    const auto known = file->values.find(wanted.name);
    if (known != file->values.end()) return known->second.get();
    OrtValue* value = nullptr;
    check_ort(ort_,
              ort_.CreateTensorWithDataAsOrtValue(device_.memory(), file->at(tensor.begin, bytes), size_t(bytes),
                                                  tensor.shape.data(), tensor.shape.size(), element_type(tensor.dtype),
                                                  &value),
              folder + wanted.file);
    return file->values.emplace(wanted.name, OrtHandle<OrtValue>(value, ort_.ReleaseValue)).first->second.get();
}

void SharedWeights::drop_pages() const {
    const std::lock_guard<std::mutex> guard(lock_);
    for (const auto& [path, file] : files_) file->mapped.drop_pages();
}

}  // namespace soda
