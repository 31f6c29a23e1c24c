#include "describe.hpp"

#include <algorithm>

#include "chunks.hpp"
#include "request_inputs.hpp"

namespace soda {
namespace {

template <class Struct>
void fill_shape(const Sizes& shape, Struct& to) {
    to.rank = int32_t(shape.size());
    std::copy(shape.begin(), shape.end(), to.shape);
}

// One sample of what soda_result gives: channels last, but for sound.
Sizes result_axes(const Manifest& m) {
    if (m.finish.empty() && !m.model.pixels) return {};
    Sizes axes = m.finish.empty() ? m.model.latent_shape : m.finish[0].shape;
    if (m.finish.empty() || m.finish[0].kind != ResultKind::audio)
        std::rotate(axes.end() - 3, axes.end() - 2, axes.end());
    return axes;
}

int32_t result_kind(const Manifest& m) {
    if (m.finish.empty()) return m.model.pixels ? SODA_IMAGE : SODA_NO_RESULT;
    const ResultKind kind = m.finish[0].kind;
    return kind == ResultKind::image ? SODA_IMAGE : kind == ResultKind::video ? SODA_VIDEO : SODA_AUDIO;
}

// Whether the fields `labels`, or those of a prompt, are all that a request must have.
int32_t condition_of(const Manifest& m) {
    const RequestPort* label = port_of_field(m, "labels");
    const RequestPort *embeds = port_of_field(m, "embeds"), *mask = port_of_field(m, "token_mask");
    const RequestPort* ids = port_of_field(m, "token_ids");
    const auto all_among = [&](std::initializer_list<const RequestPort*> fields) {
        return std::all_of(m.ports.begin(), m.ports.end(), [&](const RequestPort& port) {
            return port.kind == PortKind::scalar || std::find(fields.begin(), fields.end(), &port) != fields.end();
        });
    };
    if (label && all_among({label})) return SODA_LABELS;
    const bool text = embeds && mask && embeds->shape.size() == 2 && mask->shape == Sizes{embeds->shape[0]};
    return text && all_among({embeds, mask, ids}) ? SODA_TEXT : SODA_PORTS;
}

int32_t kind_of(PortKind kind) {
    switch (kind) {
        case PortKind::label:
            return SODA_LABEL;
        case PortKind::token_ids:
            return SODA_TOKEN_IDS;
        case PortKind::embedding:
            return SODA_EMBEDDING;
        case PortKind::hint:
            return SODA_HINT;
        case PortKind::scalar:
            return SODA_SCALAR;
        default:
            return SODA_MASK;
    }
}

// The static name of the field of soda_request that stands for a port, or "".
const char* field_name(const std::string& field, bool negative) {
    constexpr const char* fields[][2] = {
        {"embeds", "negative_embeds"}, {"token_ids", "negative_token_ids"}, {"token_mask", "negative_token_mask"}};
    for (const auto& names : fields)
        if (field == names[0]) return names[negative];
    return field == "labels" ? "labels" : "";
}

bool is_encoded(const Manifest& m, const RequestPort& port) {
    return std::any_of(m.prepare.begin(), m.prepare.end(), [&](const PrepareProgram& program) {
        return std::find(program.outputs.begin(), program.outputs.end(), port.name) != program.outputs.end();
    });
}

soda_port describe_port(const Manifest& m, const RequestPort& port, bool negative) {
    soda_port described{};
    described.name = field_name(field_of_port(m, port), negative);
    described.dtype = int32_t(dtype_of(port.dtype));
    Sizes shape = port.shape;
    shape.insert(shape.begin(), -1);
    fill_shape(shape, described);
    described.port = port.name.c_str();
    described.kind = kind_of(port.kind);
    described.negative = negative;
    const bool tokens = port.kind == PortKind::token_ids || port.kind == PortKind::token_mask;
    described.tokenizer = tokens ? int32_t(port.tokenizer) : -1;
    described.encoded = is_encoded(m, port);
    described.least = port.least;
    described.most = port.kind == PortKind::label ? double(port.num_classes - 1) : port.most;
    described.default_value = port.default_value;
    return described;
}

soda_port describe_array(const char* name, Sizes shape) {
    soda_port described{};
    described.name = name;
    described.dtype = SODA_FLOAT32;
    fill_shape(shape, described);
    described.port = "";
    described.tokenizer = -1;
    return described;
}

Sizes behind(Sizes first, const Sizes& rest) {
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
}

}  // namespace

soda_info describe_bundle(const Bundle& bundle) {
    const Manifest& m = bundle.manifest();
    soda_info info{};
    info.name = m.model.name.c_str();
    info.family = m.model.family.c_str();
    info.backend = bundle.backend().name().c_str();
    info.precision = m.precision.c_str();
    const Sizes& latents = m.model.latent_shape;
    const Sizes three = latents.size() == 3 ? latents : Sizes{1, 1, element_count(latents)};
    std::copy(three.begin(), three.end(), info.latent_shape);
    info.latent_rank = int32_t(latents.size());
    std::copy(latents.begin(), latents.end(), info.latent_axes);
    const Sizes result = result_axes(m);
    info.result = result_kind(m);
    info.result_rank = int32_t(result.size());
    std::copy(result.begin(), result.end(), info.result_axes);
    if (info.result == SODA_IMAGE) std::copy(result.begin(), result.end(), info.image_shape);
    if (!m.finish.empty()) info.result_rate = m.finish[0].rate;
    info.num_chunks = int32_t(num_chunks(m));
    if (info.num_chunks) {
        info.first_chunk_frames = int32_t(chunk_frames(m.finish[0], 0).frames);
        info.chunk_frames = int32_t(m.finish[0].frames);
    }
    info.steps = int32_t(m.sampler.steps);
    info.condition = condition_of(m);
    if (info.condition == SODA_LABELS) info.num_classes = int32_t(port_of_field(m, "labels")->num_classes);
    if (info.condition == SODA_TEXT) {
        const RequestPort& embeds = *port_of_field(m, "embeds");
        info.max_tokens = int32_t(embeds.shape[0]);
        info.embed_width = int32_t(embeds.shape[1]);
        info.takes_tokens = port_of_field(m, "token_ids") != nullptr;
    }
    info.has_guidance = m.rows_per_sample == 2;
    info.stochastic = m.sampler.stochastic;
    info.guidance = m.guidance;
    info.cuda_stream = bundle.backend().stream();
    info.num_slots = int32_t(m.slots.size());
    info.num_sizes = int32_t(bundle.sizes().size());
    info.inpaints = bundle.tables().count(start_known_table) != 0;
    info.policy = bundle.policy() ? bundle.policy()->policy.name.c_str() : "";
    info.num_actions = bundle.policy() ? int32_t(bundle.policy()->policy.actions.size()) : 0;
    info.takes_prompts = !m.tokenizers.empty();
    info.takes_start_latents = bundle.tables().count(start_levels_table) != 0;
    return info;
}

std::vector<soda_port> describe_inputs(const Manifest& m) {
    std::vector<soda_port> ports;
    for (const RequestPort& port : m.ports) {
        ports.push_back(describe_port(m, port, false));
        if (has_negatives(m, port)) ports.push_back(describe_port(m, port, true));
    }
    const Sizes& latents = m.model.latent_shape;
    ports.push_back(describe_array("noise_initial", behind({-1}, latents)));
    if (m.sampler.stochastic) ports.push_back(describe_array("noise_steps", behind({m.sampler.steps, -1}, latents)));
    return ports;
}

std::vector<soda_port> describe_outputs(const Bundle& bundle) {
    const Manifest& m = bundle.manifest();
    std::vector<soda_port> ports = {describe_array("latents", behind({-1}, m.model.latent_shape))};
    const Sizes result = result_axes(m);
    if (result.empty()) return ports;
    const ResultKind kind = m.finish.empty() ? ResultKind::image : m.finish[0].kind;
    ports.push_back(describe_array(output_name(kind), behind({-1}, result)));
    return ports;
}

soda_slot describe_slot(const Manifest& m, size_t index) {
    const Slot& slot = m.slots[index];
    soda_slot described{};
    described.name = slot.name.c_str();
    described.dtype = int32_t(dtype_of(slot.dtype));
    fill_shape(slot.shape, described);
    described.bytes = slot_bytes(m, slot);
    return described;
}

}  // namespace soda
