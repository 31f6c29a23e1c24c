// LoRA files on a bundle: each layer's change is added to the matrices of the bundle's weights files that it means.
#pragma once

#include <optional>

#include "lora_file.hpp"
#include "replaced.hpp"
#include "tensors.hpp"

namespace soda {

struct LoraArgument {
    std::string path;
    double strength;
};

class BundleLoras {
public:
    // Read and match the files. RequestError, or BundleError for weights files that are damaged.
    BundleLoras(const std::string& folder, const Manifest& manifest, const std::vector<LoraArgument>& given);

    // The changed weights with these strengths, one for each file. RequestError.
    SharedReplaced replaced(const std::vector<double>& strengths) const;

private:
    // A matrix in a weights file.
    struct Stored {
        std::string file, name;
        TensorEntry entry;

        bool turned() const;  // stored [in, out]
        Sizes shape() const;  // [out, in, ...], however it is stored
        bool operator<(const Stored& other) const {
            return std::tie(file, name) < std::tie(other.file, other.name);
        }
    };
    // What a layer adds to a matrix: rows begin .. begin + rows - 1 of its product. lora: number of its file.
    struct Change {
        size_t lora;
        const LoraLayer* layer;
        int64_t begin, rows;
    };
    // Part of the model, layer, its matrix or twins of it.
    using Parts = std::map<std::string, std::map<std::string, std::vector<Stored>>>;

    static Parts parts_of(const std::string& folder, const Manifest& manifest);
    void add(size_t number, const Parts& parts);
    HostTensor changed(const Stored& matrix, const std::vector<Change>& changes,
                       const std::vector<double>& strengths) const;

    std::string folder_;
    std::vector<LoraFile> loras_;
    std::map<Stored, std::vector<Change>> changes_;
};

}  // namespace soda
