// Ranges, sizes and file names of a manifest. BUNDLE.md section 4 numbers these checks.
#include "consistency.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "errors.hpp"
#include "names.hpp"
#include "signature.hpp"

namespace soda {
namespace {

constexpr int64_t values_of_a_slot = 3;  // the latest and two before it
constexpr int64_t max_elements = int64_t(1) << 34;

// Collects the first number that is out of its range.
class Ranges {
public:
    template <class Number, class... Name>
    bool check(Number value, std::common_type_t<Number> low, std::common_type_t<Number> high, const Name&... name) {
        if (problem_.empty() && !(value >= low && value <= high))
            problem_ = say(name..., "=", value, " is outside ", low, " .. ", high);
        return problem_.empty();
    }

    // A shape's length, then its entries, then their product.
    template <class... Name>
    void check_shape(const Sizes& shape, int64_t least_axes, int64_t most_axes, int64_t longest, const Name&... name) {
        if (!check(shape.size(), least_axes, most_axes, "len(", name..., ")")) return;
        int64_t elements = 1;
        for (size_t i = 0; i < shape.size(); ++i) {
            if (!check(shape[i], 1, longest, name..., "[", i, "]")) return;
            elements = elements > max_elements ? elements : elements * shape[i];
        }
        check(elements, 1, max_elements, "elements of ", name...);
    }
    const std::string& problem() const { return problem_; }

private:
    std::string problem_;
};

// What a request gives: ports, and tokenizers of prompts.
void check_ports(const Manifest& m, Ranges& ranges) {
    if (!ranges.check(m.ports.size(), 0, 64, "len(ports)")) return;
    for (size_t i = 0; i < m.ports.size(); ++i) {
        const RequestPort& port = m.ports[i];
        ranges.check_shape(port.shape, 0, 6, 1 << 20, "ports[", i, "].shape");
        if (port.kind == PortKind::label && ranges.check(port.num_classes, 1, 1 << 24, "ports[", i, "].num_classes"))
            ranges.check(port.null_class, 0, port.num_classes, "ports[", i, "].null_class");
        ranges.check(port.tokenizer, 0, 7, "ports[", i, "].tokenizer");
    }
    ranges.check(m.tokenizers.size(), 0, 8, "len(tokenizers)");
    for (size_t i = 0; i < m.tokenizers.size(); ++i) {
        ranges.check(m.tokenizers[i].max_tokens, 1, 1 << 12, "tokenizers[", i, "].max_tokens");
        ranges.check(m.tokenizers[i].pad_id, -1, std::numeric_limits<int32_t>::max(), "tokenizers[", i, "].pad_id");
    }
}

void check_chunks(const FinishProgram& finish, Ranges& ranges) {
    std::vector<Chunk> chunks = finish.first;
    ranges.check(chunks.size(), 0, 1, "len(finish[0].first)");
    chunks.push_back({finish.file, finish.latent_frames, finish.frames});
    for (const Chunk& chunk : chunks) {
        ranges.check(chunk.latent_frames, 1, 1 << 20, "finish[0]: latent_frames");
        ranges.check(chunk.frames, 1, 1 << 16, "finish[0]: frames");
    }
    ranges.check(finish.carry.size(), 0, 64, "len(finish[0].carry)");
    for (size_t i = 0; i < finish.carry.size(); ++i)
        ranges.check_shape(finish.carry[i].shape, 1, 6, 1 << 20, "finish[0].carry[", i, "].shape");
}

void check_finish(const FinishProgram& finish, Ranges& ranges) {
    const bool audio = finish.kind == ResultKind::audio;
    if (audio) ranges.check(finish.shape[0], 1, 1 << 16, "finish[0].shape[0]");
    if (audio) ranges.check(finish.rate, 1, 1 << 20, "finish[0].sample_rate");
    if (finish.kind == ResultKind::video) ranges.check(finish.rate, 0.001, 1000, "finish[0].frames_per_second");
    ranges.check_shape(finish.shape, 2, 4, audio ? std::numeric_limits<int32_t>::max() : 1 << 16, "finish[0].shape");
    if (finish.kind == ResultKind::video) check_chunks(finish, ranges);
}

std::string range_problem(const Manifest& m) {
    Ranges ranges;
    ranges.check_shape(m.model.latent_shape, 1, 4, 1 << 20, "model.latent_shape");
    ranges.check(m.model.sites, 0, 1 << 20, "model.sites");
    check_ports(m, ranges);
    ranges.check(m.rows_per_sample, 1, 2, "rows_per_sample");
    ranges.check(m.sampler.steps, 1, 10000, "sampler.steps");
    ranges.check(m.sampler.state_size, 1, 16, "sampler.state_size");
    for (size_t i = 0; i < m.sampler.timesteps.size(); ++i)
        ranges.check(m.sampler.timesteps[i], 0, int64_t(1) << 31, "sampler.timesteps[", i, "]");
    ranges.check(m.forecasts, 0, 1 << 16, "forecasts");
    if (!ranges.check(m.tensors.size(), 1, 4096, "len(tensors)")) return ranges.problem();
    for (size_t i = 0; i < m.tensors.size(); ++i)
        ranges.check_shape(m.tensors[i].shape, 1, 6, 1 << 20, "tensors[", i, "].shape");
    ranges.check(m.prepare.size(), 1, 64, "len(prepare)");
    if (!ranges.check(m.slots.size(), 0, 1 << 14, "len(slots)")) return ranges.problem();
    for (size_t i = 0; i < m.slots.size(); ++i)
        ranges.check_shape(m.slots[i].shape, 1, 6, 1 << 20, "slots[", i, "].shape");
    for (size_t i = 0; i < m.programs.size(); ++i)
        ranges.check(m.programs[i].flops, 0, std::numeric_limits<int64_t>::max(), "programs[", i, "].flops");
    ranges.check(m.finish.size(), 0, 1, "len(finish)");
    for (const auto& finish : m.finish) check_finish(finish, ranges);
    ranges.check(m.weights.size(), 1, 16, "len(weights)");
    return ranges.problem();
}

std::string size_problem(const Manifest& m) {
    Names names;
    int64_t bytes = 0;
    for (const Slot& slot : m.slots) {
        if (!is_slot_name(slot.name)) return say("slot ", shown(slot.name), " has no plain name");
        names.push_back(slot.name);
        bytes += slot_bytes(m, slot);
    }
    if (has_duplicates(names)) return "a slot's name stands twice";
    if (m.arena.bytes < 0 || m.arena.bytes > values_of_a_slot * bytes)
        return say("arena.bytes=", m.arena.bytes, " exceeds ", values_of_a_slot, " values of each slot");
    if (int64_t(m.sampler.timesteps.size()) != m.sampler.steps || int64_t(m.steps.size()) != m.sampler.steps)
        return say(m.steps.size(), " steps and ", m.sampler.timesteps.size(), " timesteps, expected ", m.sampler.steps);
    if (m.model.pixels && m.model.latent_shape.size() != 3) return "pixels are latents of three axes";
    return "";
}

// A port has the type and shape of its kind.
std::string port_problem(const Manifest& m) {
    for (size_t i = 0; i < m.ports.size(); ++i) {
        const RequestPort& port = m.ports[i];
        const bool real =
            port.kind == PortKind::embedding || port.kind == PortKind::hint || port.kind == PortKind::scalar;
        const bool single = port.kind == PortKind::label || port.kind == PortKind::scalar;
        const bool tokens = port.kind == PortKind::token_ids || port.kind == PortKind::token_mask;
        if (tokens && port.tokenizer >= int64_t(m.tokenizers.size()))
            return say("ports[", i, "].tokenizer=", port.tokenizer, " does not exist");
        const bool fits = tokens ? port.shape == Sizes{m.tokenizers[size_t(port.tokenizer)].max_tokens}
                                 : port.shape.empty() == single;
        if (!fits || port.dtype != (real ? "float32" : "int64"))
            return say("ports[", i, "] has another type or shape than its kind");
        if (!(port.least <= port.default_value && port.default_value <= port.most))
            return say("ports[", i, "].default is not between `least` and `most`");
    }
    return "";
}

std::string file_problem(const Manifest& m) {
    const Names used = files_in_use(m);
    Names all = used;
    for (const auto& [name, entry] : m.files) all.push_back(name);
    for (const auto& name : all)
        if (!is_plain_file(name)) return say("file name ", shown(name), " is not a plain name inside the bundle");
    for (const auto& name : used)
        if (m.files.count(name) == 0) return say("file ", shown(name), " is used but not listed under `files`");
    if (has_duplicates(used)) return "a file has two uses";
    const auto is_known = [&](const auto& program) {
        const WeightsName& name = program.weights;
        return !name || name->empty() || std::find(m.weights.begin(), m.weights.end(), *name) != m.weights.end();
    };
    if (!std::all_of(m.prepare.begin(), m.prepare.end(), is_known) ||
        !std::all_of(m.programs.begin(), m.programs.end(), is_known) ||
        !std::all_of(m.finish.begin(), m.finish.end(), is_known))
        return "a program's weights are no entry of `weights`";
    for (const auto& [name, entry] : m.files)
        if (entry.bytes < 0 || entry.sha256.size() != 64 || !matches(entry.sha256, "0-9a-f", "0-9a-f", 64))
            return say("files[", shown(name), "] has a malformed size or hash");
    const bool indexed = m.backend == "trt" || m.backend == "trt_rtx";
    if (indexed && m.files.count(engine_index_name) == 0)
        return say("file '", engine_index_name, "' goes with backend '", m.backend,
                   "' and is not listed under `files`");
    return m.backend == "null" ? "backend 'null' computes nothing and is no backend of a bundle" : "";
}

}  // namespace

Names program_files(const Manifest& m) {
    Names files;
    for (const auto& program : m.prepare) files.push_back(program.file);
    for (const auto& program : m.programs) files.push_back(program.file);
    for (const auto& program : m.finish) {
        files.push_back(program.file);
        for (const Chunk& chunk : program.first) files.push_back(chunk.file);
    }
    return files;
}

Names files_in_use(const Manifest& m) {
    Names used = program_files(m);
    used.insert(used.end(), m.weights.begin(), m.weights.end());
    used.push_back(m.tables);
    for (const auto& tokenizer : m.tokenizers) used.push_back(tokenizer.file);
    return used;
}

std::string first_problem(const Manifest& manifest) {
    for (auto* check : {range_problem, size_problem, chunk_problem, port_problem, file_problem, prepare_problem, program_problem}) {
        std::string problem = check(manifest);
        if (!problem.empty()) return problem;
    }
    return "";
}

}  // namespace soda
