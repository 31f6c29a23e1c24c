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
constexpr int64_t current_version = 5;
constexpr int64_t max_manifest_bytes = 16 << 20;

using Names = std::vector<std::string>;
using Sizes = std::vector<int64_t>;

struct FileEntry {
    int64_t bytes;
    std::string sha256;
};

enum class PortKind { label, token_ids, token_mask, embedding, mask, hint, scalar };

// A value of every row of a request.
struct RequestPort {
    std::string name, dtype;
    Sizes shape;  // of one row
    PortKind kind;
    int64_t num_classes = 0, null_class = 0;        // of a label
    int64_t tokenizer = 0;                          // of token ids and masks: index into `tokenizers`
    double default_value = 0, least = 0, most = 0;  // of a scalar
};

struct Tokenizer {
    std::string file;
    int64_t max_tokens;
    std::string clean;
    int64_t pad_id;
};

struct Model {
    std::string name, family, hash;
    Sizes latent_shape;
    bool pixels;  // latents are pixels in -1..1
    int64_t sites;
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

// The weights file that a program takes its weights from. "": none; no value: a version that does not say.
using WeightsName = std::optional<std::string>;

struct PrepareProgram {
    std::string file;
    WeightsName weights;
    Names inputs, tables, outputs;
};

enum class ResultKind { image, video, audio };

// One call of a program that makes video: latent frames that it takes, frames that it makes.
struct Chunk {
    std::string file;
    int64_t latent_frames, frames;
};

// What such a call hands to the next one.
struct Carry {
    std::string name, dtype;
    Sizes shape;  // of one sample
};

struct FinishProgram {
    std::string file;
    WeightsName weights;
    ResultKind kind;
    Sizes shape;
    double rate;                            // frames or samples in a second; 0 of images
    int64_t latent_frames = 0, frames = 0;  // of one call, of video
    std::vector<Chunk> first = {};          // of video: the first call, where it is another program's
    std::vector<Carry> carry = {};          // of video
};

struct Slot {
    std::string name;
    Sizes shape;  // of one row
    std::string dtype;
};

// A slot's value as a program names it.
struct SlotValue {
    int64_t slot;      // index into `slots`; -1: there is no such slot
    int64_t age;       // 0: the latest value
    std::string text;  // behind "cache." or "cache_out." in the program
};

struct Program {
    std::string file;
    WeightsName weights;
    Names inputs;
    std::vector<SlotValue> reads, writes;
    int64_t flops;
};

struct Step {
    int64_t program;
    Sizes read_offsets, write_offsets;  // bytes for one sample
};

struct Arena {
    int64_t bytes, lower_bound_bytes, naive_bytes;
};

struct Manifest {
    int64_t version = 0;  // of the file
    std::string builder, backend, precision;
    Model model;
    std::vector<RequestPort> ports;
    std::vector<Tokenizer> tokenizers;
    Sampler sampler;
    int64_t rows_per_sample;
    double guidance, flops_ratio;
    int64_t forecasts;
    std::vector<PreparedTensor> tensors;
    std::vector<PrepareProgram> prepare;
    std::vector<Slot> slots;
    std::vector<Program> programs;
    int64_t baseline_program;
    std::vector<Step> steps;
    std::vector<FinishProgram> finish;
    Arena arena;
    Names weights;
    std::string tables;
    std::map<std::string, FileEntry> files;
};

const RequestPort* find_port(const Manifest& manifest, const std::string& name);  // null where there is none
// Makes ports of the request, unless the request gives them.
bool is_encoder(const Manifest& manifest, const PrepareProgram& program);
bool has_negatives(const Manifest& manifest, const RequestPort& port);  // whether guidance takes other values of it

// Decode manifest.json strictly; the version is looked at first. `where` names the file in messages.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace soda
