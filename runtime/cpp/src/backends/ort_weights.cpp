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
    : ort_(ort), device_(device), container_(make_container()) {}

std::shared_ptr<OrtPrepackedWeightsContainer> SharedWeights::make_container() const {
    OrtPrepackedWeightsContainer* container = nullptr;
    check_ort(ort_, ort_.CreatePrepackedWeightsContainer(&container), "ONNX Runtime");
    return {container, ort_.ReleasePrepackedWeightsContainer};
}

std::shared_ptr<OrtPrepackedWeightsContainer> SharedWeights::container_of(uint64_t version) {
    if (version == 0) return container_;
    for (auto each = of_replaced_.begin(); each != of_replaced_.end();)
        each = each->second.expired() ? of_replaced_.erase(each) : std::next(each);
    auto known = of_replaced_[version].lock();
    if (!known) of_replaced_[version] = known = make_container();
    return known;
}

SharedWeights::File::File(const std::string& path, const OrtDevice& device) : mapped(path), tensors(read_header(path)) {
    if (!device.cuda()) return;
    copy = std::make_unique<DeviceMemory>(device.cuda(), int64_t(mapped.size()));
    copy->write(0, mapped.data(), int64_t(mapped.size()));
}

char* SharedWeights::File::at(int64_t offset, int64_t bytes) const {
    return copy ? copy->at(offset, bytes) : const_cast<char*>(mapped.data()) + offset;
}

SharedWeights::Kept SharedWeights::add_to(OrtSessionOptions* options, const SodaProgram& program) {
    const std::string path = program.path, folder = path.substr(0, path.rfind('/') + 1);
    std::map<std::string, const SodaWeight*> replaced;
    for (int32_t i = 0; i < program.num_replaced; ++i) replaced[program.replaced[i].name] = &program.replaced[i];
    const MappedFile model(path);
    const std::lock_guard<std::mutex> guard(lock_);
    Kept kept{container_of(program.replaced_version), {}, {}};
    for (const ExternalInitializer& wanted : list_external_initializers({model.data(), model.size()})) {
        const auto other = replaced.find(wanted.name);
        if (other != replaced.end())
            replace(options, *other->second, path, kept);
        else if (const OrtValue* value = value_of(folder, wanted))
            check_ort(ort_, ort_.AddInitializer(options, wanted.name.c_str(), value), path);
    }
    return kept;
}

// Once before the graph is optimized, for which the library copies it, and once after that, where it is used in place:
// what AddInitializer alone gives, optimizers do not see.
void SharedWeights::replace(OrtSessionOptions* options, const SodaWeight& weight, const std::string& path,
                            Kept& kept) const {
    OrtMemoryInfo* info = nullptr;
    check_ort(ort_, ort_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info), path);
    const OrtHandle<OrtMemoryInfo> host(info, ort_.ReleaseMemoryInfo);
    kept.values.push_back(make_value(host.get(), const_cast<void*>(weight.data), weight, path));
    const OrtValue* first = kept.values.back().get();
    check_ort(ort_, ort_.AddExternalInitializers(options, &weight.name, &first, 1), path);
    if (device_.cuda()) {
        if (weight.bytes < least_device_bytes) return;
        kept.memories.push_back(std::make_unique<DeviceMemory>(device_.cuda(), weight.bytes));
        kept.memories.back()->write(0, weight.data, weight.bytes);
        void* place = kept.memories.back()->at(0, weight.bytes);
        kept.values.push_back(make_value(device_.memory(), place, weight, path));
    }
    check_ort(ort_, ort_.AddInitializer(options, weight.name, kept.values.back().get()), path);
}

OrtHandle<OrtValue> SharedWeights::make_value(const OrtMemoryInfo* memory, void* data, const SodaWeight& weight,
                                              const std::string& path) const {
    OrtValue* value = nullptr;
    check_ort(ort_,
              ort_.CreateTensorWithDataAsOrtValue(memory, data, size_t(weight.bytes), weight.dims, size_t(weight.rank),
                                                  element_type(weight.dtype), &value),
              path);
    return {value, ort_.ReleaseValue};
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
