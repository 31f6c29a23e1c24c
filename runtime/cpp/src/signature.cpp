#include "signature.hpp"

#include "errors.hpp"

namespace soda {

int64_t item_bytes(Dtype dtype) {
    if (dtype == Dtype::int64) return 8;
    return dtype == Dtype::float32 ? 4 : 2;
}

Dtype dtype_of(const std::string& name) {
    if (name == "float16") return Dtype::float16;
    return name == "bfloat16" ? Dtype::bfloat16 : Dtype::float32;
}

Dtype dtype_of_precision(const std::string& precision) {
    if (precision == "fp16") return Dtype::float16;
    return precision == "bf16" ? Dtype::bfloat16 : Dtype::float32;
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

Ports request_ports(const Manifest& manifest) {
    if (manifest.model.label) return {{"labels", {Dtype::int64, {rows_axis}}}};
    const TextCondition& text = *manifest.model.text;
    Ports ports{{"embeds", {Dtype::float32, {rows_axis, text.max_tokens, text.embed_width}}},
                {"attention_mask", {Dtype::int64, {rows_axis, text.max_tokens}}}};
    if (!text.tokenizer.empty()) ports["input_ids"] = {Dtype::int64, {rows_axis, text.max_tokens}};
    return ports;
}

static Sizes behind(int64_t first, const Sizes& rest) {
    Sizes shape{first};
    shape.insert(shape.end(), rest.begin(), rest.end());
    return shape;
}

Port tensor_port(const PreparedTensor& tensor) {
    return {dtype_of(tensor.dtype), behind(tensor.rows ? rows_axis : 1, tensor.shape)};
}

Signature step_signature(const Manifest& manifest, size_t index) {
    const Model& model = manifest.model;
    const Program& program = manifest.programs[index];
    const Port latents{Dtype::float32, behind(batch_axis, model.latent_shape)};
    const Port state{Dtype::float32, behind(manifest.sampler.state_size, latents.shape)};
    const Port slot{dtype_of_precision(manifest.precision), {rows_axis, model.num_tokens, model.width}};
    Signature signature;
    signature.inputs["state"] = state;
    signature.inputs["coefficients"] = {Dtype::float32, {scalar_count(manifest)}};
    for (const auto& tensor : manifest.tensors)
        for (const auto& name : program.inputs)
            if (name == tensor.name) signature.inputs[name] = tensor_port(tensor);
    if (manifest.rows_per_sample == 2) signature.inputs["guidance"] = {Dtype::float32, {1}};
    if (manifest.sampler.stochastic) signature.inputs["noise"] = latents;
    for (const auto& name : program.reads) signature.inputs["cache." + name] = slot;
    signature.outputs["state_out"] = state;
    for (const auto& name : program.writes) signature.outputs["cache_out." + name] = slot;
    return signature;
}

Signature prepare_signature(const Manifest& manifest, const PrepareProgram& program,
                            const std::map<std::string, Sizes>& tables) {
    Ports known = request_ports(manifest);
    for (const auto& tensor : manifest.tensors) known[tensor.name] = tensor_port(tensor);
    Signature signature;
    for (const auto& name : program.inputs) signature.inputs[name] = known.at(name);
    for (const auto& name : program.tables) {
        Sizes shape = tables.at(name);
        shape[0] = window_axis;
        signature.inputs[name] = {Dtype::float32, shape};
    }
    for (const auto& name : program.outputs) {
        Port port = known.at(name);
        if (!program.tables.empty()) port.shape = behind(window_axis, port.shape);
        signature.outputs[name] = port;
    }
    return signature;
}

Signature finish_signature(const Manifest& manifest, const FinishProgram& program) {
    return {{{"latents", {Dtype::float32, behind(batch_axis, manifest.model.latent_shape)}}},
            {{"image", {Dtype::float32, behind(batch_axis, program.shape)}}}};
}

}  // namespace soda
