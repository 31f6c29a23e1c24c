// One copy of the weights for all sessions of a bundle: values over a mapping of the weights files, and one container
// of repacked weights. docs/decisions/0021 has the reasons and the measurements.
#pragma once

#include <map>
#include <mutex>
#include <vector>

#include "../files.hpp"
#include "onnx_initializers.hpp"
#include "ort_library.hpp"

namespace soda {

class SharedWeights {
public:
    explicit SharedWeights(const OrtApi& ort);

    // Give the session options of a program every weight that it takes from the files beside it.
    void add_to(OrtSessionOptions* options, const std::string& path);
    OrtPrepackedWeightsContainer* container() const { return container_.get(); }
    // Pages of the files that were read to repack them go.
    void drop_pages() const;

private:
    const OrtValue* value_of(const std::string& folder, const ExternalInitializer& tensor);

    const OrtApi& ort_;
    OrtHandle<OrtMemoryInfo> memory_;
    OrtHandle<OrtPrepackedWeightsContainer> container_;
    mutable std::mutex lock_;
    std::map<std::string, std::unique_ptr<MappedFile>> files_;
    std::map<std::string, OrtHandle<OrtValue>> values_;  // by file, offset, type and shape
};

}  // namespace soda
