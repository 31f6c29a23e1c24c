// Names and shapes of every program's inputs and outputs, and of what a request gives.
#pragma once

#include <map>

#include "manifest.hpp"

namespace soda {

enum class Dtype : int32_t { float32 = 0, float16 = 1, bfloat16 = 2, int64 = 3 };  // numbers as in the C header

int64_t item_bytes(Dtype dtype);
Dtype dtype_of(const std::string& name);  // "float32" ..

// Symbolic axes of a shape; every other entry is a number.
constexpr int64_t batch_axis = -1, rows_axis = -2, window_axis = -3;

struct Axes {
    int64_t batch, rows, window;
};

struct Port {
    Dtype dtype;
    Sizes shape;
    std::string slot = "";  // whose value this is; "": none
    int64_t age = 0;        // of that value

    Sizes at(const Axes& axes) const;       // symbolic axes filled in
    int64_t bytes(const Axes& axes) const;  // EngineError where they do not fit 64 bits
};

using Ports = std::map<std::string, Port>;

bool operator==(const Port& a, const Port& b);

struct Signature {
    Ports inputs, outputs;
};

// a * b of sizes, or EngineError where that does not fit 64 bits.
int64_t checked_product(int64_t a, int64_t b);

int64_t scalar_count(const Manifest& manifest);  // length of a row of the tables of coefficients
// The table whose rows a request's steps take as `coefficients`.
const char* coefficient_table(const Manifest& manifest, bool accelerated);
// Tables of bundles whose requests may start at a step from given latents.
constexpr const char* start_levels_table = "start.levels";
constexpr const char* start_coefficients_table = "start.coefficients";
constexpr const char* start_known_table = "start.known";  // of bundles that inpaint
constexpr const char* mask_port = "mask";                 // of the same
// Table of bundles that give previews: shares of latents and prediction in the clean sample before each step.
constexpr const char* preview_levels_table = "preview.levels";
int64_t element_count(const Sizes& shape);  // of a checked shape: it fits 64 bits
// Bytes that a slot takes in the arena for one sample, all of its rows, padding included.
int64_t slot_bytes(const Manifest& manifest, const Slot& slot);
const char* result_name(ResultKind kind);  // "image", "video" or "audio": the finish program's output
const char* output_name(ResultKind kind);  // "images", "video" or "audio": the caller's
Port request_port(const RequestPort& port);
Port tensor_port(const PreparedTensor& tensor);  // as one step, or the request, sees it
Signature step_signature(const Manifest& manifest, size_t program);
// tables: full shape [steps, ...] of each table by name.
Signature prepare_signature(const Manifest& manifest, const PrepareProgram& program,
                            const std::map<std::string, Sizes>& tables);
// Of a video, in one call. first: that of the first call's own program.
Signature finish_signature(const Manifest& manifest, const FinishProgram& program, bool first = false);

}  // namespace soda
