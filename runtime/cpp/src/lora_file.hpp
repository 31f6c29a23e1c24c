// A LoRA file as diffusers, PEFT or kohya's scripts write it: its layers, two factors each, and their scale.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"

namespace soda {

// A matrix as it is stored, read as float32 when it is used.
struct LoraFactor {
    std::string dtype;
    Sizes shape;
    std::string content;

    std::vector<float> values() const;
};

// down [rank, in, ...], up [out, rank, ...]; a strength of 1 adds scale * up @ down. name: as the file has it.
struct LoraLayer {
    std::string name;
    LoraFactor down, up;
    double scale;
};

// Read whole: whatever becomes of the file later does not matter.
struct LoraFile {
    std::string path;
    std::vector<LoraLayer> layers;  // by name
};

// A .safetensors file, or the one in a folder of PEFT or diffusers. RequestError where it is no plain LoRA.
LoraFile read_lora(const std::string& path);

}  // namespace soda
