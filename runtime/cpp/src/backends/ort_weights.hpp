// One copy of the weights for all sessions of a bundle: values over a mapping of the weights files, and one container
// of repacked weights. docs/decisions/0021 has the reasons and the measurements.
#pragma once

#include <map>
#include <mutex>
#include <vector>

#include "../files.hpp"
#include "../tensors.hpp"
#include "onnx_initializers.hpp"
#include "ort_device.hpp"

namespace soda {

class SharedWeights {
public:
    SharedWeights(const OrtApi& ort, const OrtDevice& device);

    // What a session keeps until it is closed.
    struct Kept {
        std::shared_ptr<OrtPrepackedWeightsContainer> container;
        std::vector<OrtHandle<OrtValue>> values;
        std::vector<std::unique_ptr<DeviceMemory>> memories;
    };

    // Give the session options of a program every weight that it takes from the files beside it: a tensor of the same
    // name, type and shape, or what replaces it. Whatever else it asks for is the library's to read or refuse.
    Kept add_to(OrtSessionOptions* options, const SodaProgram& program);
    // Pages of the files that were read to repack them go.
    void drop_pages() const;

private:
    // A weights file: mapped, and on a CUDA device copied there; tensors that a program took, by name.
    struct File {
        File(const std::string& path, const OrtDevice& device);
        MappedFile mapped;
        std::unique_ptr<DeviceMemory> copy;
        TensorEntries tensors;
        std::map<std::string, OrtHandle<OrtValue>> values;
        char* at(int64_t offset, int64_t bytes) const;
    };

    const OrtValue* value_of(const std::string& folder, const ExternalInitializer& wanted);
    void replace(OrtSessionOptions* options, const SodaWeight& weight, const std::string& path, Kept& kept) const;
    OrtHandle<OrtValue> make_value(const OrtMemoryInfo* memory, void* data, const SodaWeight& weight,
                                   const std::string& path) const;
    std::shared_ptr<OrtPrepackedWeightsContainer> make_container() const;
    // Prepacked weights are kept until the last engine is closed: those of replaced weights with engines of their own.
    std::shared_ptr<OrtPrepackedWeightsContainer> container_of(uint64_t version);

    const OrtApi& ort_;
    const OrtDevice& device_;
    std::shared_ptr<OrtPrepackedWeightsContainer> container_;
    std::map<uint64_t, std::weak_ptr<OrtPrepackedWeightsContainer>> of_replaced_;  // by version
    mutable std::mutex lock_;
    std::map<std::string, std::unique_ptr<File>> files_;  // by name
};

}  // namespace soda
