#include "signature.hpp"

#include <algorithm>

#include "errors.hpp"

namespace soda {

int64_t item_bytes(Dtype dtype) {
    if (dtype == Dtype::int64) return 8;
    return dtype == Dtype::float32 ? 4 : 2;
}

Dtype dtype_of(const std::string& name) {
    if (name == "int64") return Dtype::int64;
    if (name == "float16") return Dtype::float16;
    return name == "bfloat16" ? Dtype::bfloat16 : Dtype::float32;
}

bool operator==(const Port& a, const Port& b) {
    return a.dtype == b.dtype && a.shape == b.shape && a.slot == b.slot && a.age == b.age;
}

Sizes Port::at(const Axes& axes) const {
    Sizes filled = shape;
    for (int64_t& side : filled) {
        if (side == batch_axis) side = axes.batch;
        if (side == rows_axis) side = axes.rows;
        if (side == window_axis) side = axes.window;
    }
    return filled;
}

int64_t Port::bytes(const Axes& axes) const {
    int64_t bytes = item_bytes(dtype);
    for (int64_t side : at(axes)) bytes = checked_product(bytes, side);
    return bytes;
}

int64_t checked_product(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        throw EngineError("more memory than there are addresses; use a smaller batch", SODA_ENGINE_MEMORY);
    return product;
}

int64_t scalar_count(const Manifest& manifest) {
    const int64_t n = manifest.sampler.state_size;
    return 1 + n * n + 2 * n + 2 * manifest.sampler.learned_variance + 3 * manifest.forecasts;
}

const char* coefficient_table(const Manifest& manifest, bool accelerated) {
    return manifest.sampler.fitted && !accelerated ? "baseline_coefficients" : "coefficients";
}

int64_t element_count(const Sizes& shape) {
    int64_t count = 1;
    for (int64_t side : shape) count *= side;
    return count;
}

int64_t slot_bytes(const Manifest& manifest, const Slot& slot) {
    constexpr int64_t alignment = 256;
    const int64_t bytes = item_bytes(dtype_of(slot.dtype)) * manifest.rows_per_sample * element_count(slot.shape);
    return (bytes + alignment - 1) / alignment * alignment;
}

const char* result_name(ResultKind kind) {
    return kind == ResultKind::image ? "image" : kind == ResultKind::video ? "video" : "audio";
}

static Sizes behind(int64_t first, const Sizes& rest) {
    Sizes shape{first};
    shape.insert(shape.end(), rest.begin(), rest.end());
    return shape;
}

Port request_port(const RequestPort& port) {
    return {dtype_of(port.dtype), behind(rows_axis, port.shape)};
}

Port tensor_port(const PreparedTensor& tensor) {
    return {dtype_of(tensor.dtype), behind(tensor.rows ? rows_axis : 1, tensor.shape)};
}

const char* output_name(ResultKind kind) {
    return kind == ResultKind::image ? "images" : result_name(kind);
}

// A port or prepared tensor of a checked manifest.
static Port known_port(const Manifest& manifest, const std::string& name) {
    if (const RequestPort* port = find_port(manifest, name)) return request_port(*port);
    const auto tensor = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                     [&](const PreparedTensor& each) { return each.name == name; });
    if (tensor == manifest.tensors.end()) throw InternalError(say(shown(name), " is no port and no tensor"));
    return tensor_port(*tensor);
}

Signature step_signature(const Manifest& manifest, size_t index) {
    const Model& model = manifest.model;
    const Program& program = manifest.programs[index];
    const Port latents{Dtype::float32, behind(batch_axis, model.latent_shape)};
    const Port state{Dtype::float32, behind(manifest.sampler.state_size, latents.shape)};
    const auto value_port = [&](const SlotValue& value) -> Port {
        const Slot& slot = manifest.slots[size_t(value.slot)];
        return {dtype_of(slot.dtype), behind(rows_axis, slot.shape), slot.name, value.age};
    };
    Signature signature;
    signature.inputs["state"] = state;
    signature.inputs["coefficients"] = {Dtype::float32, {scalar_count(manifest)}};
    for (const auto& name : program.inputs) signature.inputs[name] = known_port(manifest, name);
    if (manifest.rows_per_sample == 2) signature.inputs["guidance"] = {Dtype::float32, {1}};
    if (manifest.sampler.stochastic) signature.inputs["noise"] = latents;
    for (const auto& value : program.reads) signature.inputs["cache." + value.text] = value_port(value);
    signature.outputs["state_out"] = state;
    for (const auto& value : program.writes) signature.outputs["cache_out." + value.text] = value_port(value);
    return signature;
}

Signature prepare_signature(const Manifest& manifest, const PrepareProgram& program,
                            const std::map<std::string, Sizes>& tables) {
    Signature signature;
    for (const auto& name : program.inputs) signature.inputs[name] = known_port(manifest, name);
    for (const auto& name : program.tables) {
        Sizes shape = tables.at(name);
        shape[0] = window_axis;
        signature.inputs[name] = {Dtype::float32, shape};
    }
    for (const auto& name : program.outputs) {
        Port port = known_port(manifest, name);
        if (!program.tables.empty()) port.shape = behind(window_axis, port.shape);
        signature.outputs[name] = port;
    }
    return signature;
}

Signature finish_signature(const Manifest& manifest, const FinishProgram& program, bool first) {
    Sizes latents = manifest.model.latent_shape, made = program.shape;
    if (program.kind == ResultKind::video) {
        latents[1] = first ? program.first[0].latent_frames : program.latent_frames;
        made[0] = first ? program.first[0].frames : program.frames;
    }
    Signature signature{{{"latents", {Dtype::float32, behind(batch_axis, latents)}}},
                        {{result_name(program.kind), {Dtype::float32, behind(batch_axis, made)}}}};
    for (const Carry& carry : program.carry) {
        const Port port{dtype_of(carry.dtype), behind(batch_axis, carry.shape)};
        signature.inputs["carry." + carry.name] = port;
        signature.outputs["carry_out." + carry.name] = port;
    }
    return signature;
}

}  // namespace soda
