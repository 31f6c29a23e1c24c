// The bundle's schema: manifest.json as plain structs in the terms of the current version. BUNDLE.md explains it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace soda {

constexpr const char* manifest_name = "manifest.json";
constexpr const char* engine_index_name = "engines.json";  // of backends whose engines are built ahead of time
constexpr int64_t max_manifest_bytes = 16 << 20;

using Names = std::vector<std::string>;
using Sizes = std::vector<int64_t>;

struct FileEntry {
    int64_t bytes;
    std::string sha256;
};

struct LabelCondition {
    int64_t num_classes, null_class;
};

struct TextCondition {
    int64_t max_tokens, embed_width;
    std::string tokenizer;  // "": takes embeddings alone
};

struct Model {
    std::string name, family, hash;
    Sizes latent_shape;  // C, H, W
    int64_t num_layers;
    Names modules;
    int64_t num_tokens, width;
    std::optional<LabelCondition> label;  // this one or the next
    std::optional<TextCondition> text;
    bool pixels;  // latents are pixels in -1..1
};

struct Sampler {
    std::string name;
    int64_t steps;
    std::vector<double> timesteps;
    int64_t state_size;
    bool stochastic, learned_variance;
    bool fitted;  // the schedule brings coefficients; the sampler's own are in `baseline_coefficients`
    double initial_scale;
};

struct PreparedTensor {
    std::string name, dtype;
    bool rows, per_step;
    Sizes shape;  // without the first axis
};

struct PrepareProgram {
    std::string file;
    Names inputs, tables, outputs;

    bool is_text_encoder() const { return outputs.size() == 1 && outputs[0] == "embeds"; }
};

struct FinishProgram {
    std::string file;
    Sizes shape;
};

struct Program {
    std::string file;
    Names inputs, reads, writes;
    int64_t flops;
};

struct Step {
    int64_t program;
    Sizes read_offsets, write_offsets;  // bytes for one sample
};

struct Arena {
    int64_t bytes, lower_bound_bytes, naive_bytes, slot_bytes;
};

struct Manifest {
    std::string builder, backend, precision;
    Model model;
    Sampler sampler;
    int64_t rows_per_sample;
    double guidance, flops_ratio;
    int64_t forecasts;
    std::vector<PreparedTensor> tensors;
    std::vector<PrepareProgram> prepare;
    std::vector<Program> programs;
    int64_t baseline_program;
    std::vector<Step> steps;
    std::vector<FinishProgram> finish;
    Arena arena;
    Names weights;
    std::string tables;
    std::map<std::string, FileEntry> files;
};

// Decode manifest.json strictly; the version is looked at first. `where` names the file in messages.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace soda
