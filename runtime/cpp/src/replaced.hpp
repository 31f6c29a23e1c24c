// Weights that stand in the place of a weights file's own, in host memory and in the file's type.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "manifest.hpp"

namespace soda {

struct HostTensor {
    std::string dtype;  // as safetensors spells it
    Sizes shape;
    std::string content;
};

// By weights file and name. version: 0 where nothing is replaced, else another one for other values. Who opened engines
// with it keeps it until they and their calls are closed.
struct Replaced {
    uint64_t version = 0;
    std::map<std::string, std::map<std::string, HostTensor>> files;

    // What a program of that weights file takes, by name; "" where an old bundle does not say which is its own.
    std::map<std::string, const HostTensor*> of_program(const std::string& weights) const {
        std::map<std::string, const HostTensor*> tensors;
        for (const auto& [file, own] : files)
            if (weights.empty() || file == weights)
                for (const auto& [name, tensor] : own) tensors[name] = &tensor;
        return tensors;
    }
};

using SharedReplaced = std::shared_ptr<const Replaced>;

}  // namespace soda
