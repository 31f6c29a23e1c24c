// Which layer of a model a LoRA's key means: names of diffusers, PEFT and kohya, and of the models' first repositories.
// Every name is compared with dots as underscores, which is how kohya's scripts write it.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace soda {

using LoraKey = std::pair<std::string, std::string>;  // part ("" is the denoiser) and name

// The key of a layer of a LoRA file.
LoraKey lora_key(const std::string& name);
// Every key that stands for layers of a model's part: these, in the order in which they share a matrix's rows.
std::map<LoraKey, std::vector<std::string>> lora_keys(const std::string& part, const std::vector<std::string>& layers);
// Whether its name is that of a layer which only the timestep decides, so that a build makes tables of it.
bool only_timestep_decides(const LoraKey& key);

}  // namespace soda
