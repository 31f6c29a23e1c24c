// Ranges, file names and the programs before the steps. BUNDLE.md section 4 numbers these checks.
#include "consistency.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "errors.hpp"
#include "signature.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;
constexpr int64_t values_of_a_slot = 3;  // the latest and two before it
const std::set<std::string> reserved_names = {"labels",   "input_ids", "attention_mask", "embeds",
                                              "state",    "state_out", "coefficients",   "baseline_coefficients",
                                              "guidance", "noise",     "latents",        "image"};

using Words = std::set<std::string>;

// Collects the first number that is out of its range.
class Ranges {
public:
    template <class Number, class... Name>
    bool check(Number value, int64_t low, int64_t high, const Name&... name) {
        if (problem_.empty() && !(value >= Number(low) && value <= Number(high)))
            problem_ = say(name..., "=", value, " is outside ", low, " .. ", high);
        return problem_.empty();
    }
    const std::string& problem() const { return problem_; }

private:
    std::string problem_;
};

std::string range_problem(const Manifest& m) {
    Ranges ranges;
    ranges.check(m.model.num_layers, 1, 1000, "model.num_layers");
    ranges.check(m.model.num_tokens, 1, 1 << 20, "model.num_tokens");
    ranges.check(m.model.width, 1, 1 << 16, "model.width");
    ranges.check(m.model.modules.size(), 1, 8, "len(modules)");
    for (size_t i = 0; i < 3; ++i) ranges.check(m.model.latent_shape[i], 1, 1 << 14, "model.latent_shape[", i, "]");
    if (m.model.label) {
        ranges.check(m.model.label->num_classes, 1, 1 << 24, "model.condition.num_classes");
        ranges.check(m.model.label->null_class, 0, m.model.label->num_classes, "model.condition.null_class");
    } else {
        ranges.check(m.model.text->max_tokens, 1, 1 << 12, "model.condition.max_tokens");
        ranges.check(m.model.text->embed_width, 1, 1 << 16, "model.condition.embed_width");
    }
    ranges.check(m.rows_per_sample, 1, 2, "rows_per_sample");
    ranges.check(m.sampler.steps, 1, 10000, "sampler.steps");
    ranges.check(m.sampler.state_size, 1, 8, "sampler.state_size");
    for (size_t i = 0; i < m.sampler.timesteps.size(); ++i)
        ranges.check(m.sampler.timesteps[i], 0, int64_t(1) << 31, "sampler.timesteps[", i, "]");
    ranges.check(m.forecasts, 0, 1 << 16, "forecasts");
    ranges.check(m.arena.slot_bytes, 1, int64_t(1) << 40, "arena.slot_bytes");
    if (!ranges.check(m.tensors.size(), 1, 4096, "len(tensors)")) return ranges.problem();
    for (size_t i = 0; i < m.tensors.size(); ++i) {
        const Sizes& shape = m.tensors[i].shape;
        if (!ranges.check(shape.size(), 1, 6, "len(tensors[", i, "].shape)")) break;
        int64_t elements = 1;
        for (size_t j = 0; j < shape.size(); ++j) {
            if (!ranges.check(shape[j], 1, 1 << 20, "tensors[", i, "].shape[", j, "]")) break;
            elements *= shape[j];
            if (!ranges.check(elements, 1, int64_t(1) << 34, "elements of tensors[", i, "]")) break;
        }
    }
    ranges.check(m.prepare.size(), 1, 8, "len(prepare)");
    for (size_t i = 0; i < m.programs.size(); ++i)
        ranges.check(m.programs[i].flops, 0, std::numeric_limits<int64_t>::max(), "programs[", i, "].flops");
    ranges.check(m.finish.size(), 0, 1, "len(finish)");
    for (const auto& finish : m.finish)
        for (size_t j = 0; j < 3; ++j) ranges.check(finish.shape[j], 1, 1 << 16, "finish[0].shape[", j, "]");
    ranges.check(m.weights.size(), 1, 8, "len(weights)");
    return ranges.problem();
}

std::string size_problem(const Manifest& m) {
    const int64_t slot =
        item_bytes(dtype_of_precision(m.precision)) * m.rows_per_sample * m.model.num_tokens * m.model.width;
    const Arena& arena = m.arena;
    if (arena.slot_bytes < slot || arena.slot_bytes - slot >= alignment_bytes || arena.slot_bytes % alignment_bytes)
        return say("arena.slot_bytes=", arena.slot_bytes, " is not one slot of ", slot, " bytes, aligned");
    const int64_t values = values_of_a_slot * (1 + m.model.num_layers * int64_t(m.model.modules.size()));
    if (arena.bytes < 0 || arena.bytes > arena.slot_bytes * values)
        return say("arena.bytes=", arena.bytes, " exceeds ", values_of_a_slot, " values per layer and module");
    if (int64_t(m.sampler.timesteps.size()) != m.sampler.steps || int64_t(m.steps.size()) != m.sampler.steps)
        return say(m.steps.size(), " steps and ", m.sampler.timesteps.size(), " timesteps, expected ", m.sampler.steps);
    const auto plain = [](const std::string& name) { return matches(name, "a-z_", "a-z_", 32); };
    if (has_duplicates(m.model.modules) || !std::all_of(m.model.modules.begin(), m.model.modules.end(), plain))
        return "model.modules has a name twice, or one that is not plain";
    return "";
}

Names files_in_use(const Manifest& m) {
    Names used = m.weights;
    used.push_back(m.tables);
    for (const auto& program : m.prepare) used.push_back(program.file);
    for (const auto& program : m.programs) used.push_back(program.file);
    for (const auto& program : m.finish) used.push_back(program.file);
    if (m.model.text && !m.model.text->tokenizer.empty()) used.push_back(m.model.text->tokenizer);
    return used;
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
    for (const auto& [name, entry] : m.files)
        if (entry.bytes < 0 || entry.sha256.size() != 64 || !matches(entry.sha256, "0-9a-f", "0-9a-f", 64))
            return say("files[", shown(name), "] has a malformed size or hash");
    const bool indexed = m.backend == "trt" || m.backend == "trt_rtx";
    if (indexed && m.files.count(engine_index_name) == 0)
        return say("file '", engine_index_name, "' goes with backend '", m.backend,
                   "' and is not listed under `files`");
    return m.backend == "null" ? "backend 'null' computes nothing and is no backend of a bundle" : "";
}

// One program: inputs that are there before it, outputs that are tensors of its kind and new.
std::string order_problem(const PrepareProgram& program, const std::map<std::string, bool>& per_step,
                          const Words& given, const Words& made) {
    for (const auto& name : program.inputs)
        if (given.count(name) == 0 && (made.count(name) == 0 || (per_step.count(name) && per_step.at(name))))
            return say("takes ", shown(name), ", which nothing before it gives");
    if (has_duplicates(program.inputs) || program.outputs.empty()) return "has an input twice, or no output";
    for (const auto& name : program.outputs) {
        const bool encodes_text = name == "embeds" && given.count("embeds") && program.tables.empty();
        const auto tensor = per_step.find(name);
        if (!encodes_text && (tensor == per_step.end() || tensor->second == program.tables.empty()))
            return say("makes ", shown(name), ", which is no tensor of its kind");
        if (made.count(name)) return "makes a tensor that was made before";
    }
    return has_duplicates(program.outputs) ? "makes a tensor twice" : "";
}

bool has(const Names& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Prompts need a tokenizer and a text encoder, which is skipped where embeddings are given.
std::string encoder_problem(const Manifest& m) {
    if (m.model.label) return "";
    const auto encodes = [](const PrepareProgram& program) { return has(program.outputs, "embeds"); };
    if (std::any_of(m.prepare.begin(), m.prepare.end(), encodes) == m.model.text->tokenizer.empty())
        return "a tokenizer and a prepare program that makes 'embeds' are there together or not at all";
    for (size_t i = 0; i < m.prepare.size(); ++i) {
        const PrepareProgram& program = m.prepare[i];
        if (!encodes(program) && has(program.inputs, "input_ids"))
            return say("prepare[", i, "] takes 'input_ids', which is for the program that makes 'embeds' alone");
        if (!encodes(program)) continue;
        const auto allowed = [](const std::string& name) { return name == "input_ids" || name == "attention_mask"; };
        if (program.outputs.size() != 1 || !std::all_of(program.inputs.begin(), program.inputs.end(), allowed))
            return say("prepare[", i, "] makes more than 'embeds', or of more than 'input_ids' and 'attention_mask'");
    }
    return "";
}

std::string prepare_problem(const Manifest& m) {
    Names names;
    std::map<std::string, bool> per_step;
    for (const auto& tensor : m.tensors) {
        names.push_back(tensor.name);
        per_step[tensor.name] = tensor.per_step;
    }
    for (const auto& program : m.prepare) names.insert(names.end(), program.tables.begin(), program.tables.end());
    for (const auto& name : names)
        if (!matches(name, "a-z", "a-z0-9_", 64) || reserved_names.count(name))
            return say("prepare: ", shown(name), " is not a free, plain name of a tensor");
    if (has_duplicates(names)) return "prepare: a tensor name stands twice";
    Words given, made;
    for (const auto& [name, port] : request_ports(m)) given.insert(name);
    for (size_t i = 0; i < m.prepare.size(); ++i) {
        const std::string problem = order_problem(m.prepare[i], per_step, given, made);
        if (!problem.empty()) return say("prepare[", i, "] ", problem);
        made.insert(m.prepare[i].outputs.begin(), m.prepare[i].outputs.end());
    }
    for (const auto& [name, each] : per_step)
        if (made.count(name) == 0) return say("no prepare program makes ", shown(name));
    return encoder_problem(m);
}

}  // namespace

bool has_duplicates(const Names& names) {
    return Words(names.begin(), names.end()).size() != names.size();
}

bool is_plain_file(const std::string& name) {
    return matches(name, "A-Za-z0-9", "A-Za-z0-9._-", 100) && name.find("..") == std::string::npos;
}

bool matches(const std::string& text, const char* first, const char* others, size_t longest) {
    const auto is_in = [](unsigned char c, const char* set) {
        for (; *set; ++set) {
            if (set[1] == '-' && set[2]) {
                if (c >= static_cast<unsigned char>(set[0]) && c <= static_cast<unsigned char>(set[2])) return true;
                set += 2;
            } else if (c == static_cast<unsigned char>(*set)) {
                return true;
            }
        }
        return false;
    };
    if (text.empty() || text.size() > longest || !is_in(text[0], first)) return false;
    return std::all_of(text.begin() + 1, text.end(), [&](unsigned char c) { return is_in(c, others); });
}

std::string first_problem(const Manifest& manifest) {
    for (auto* check : {range_problem, size_problem, file_problem, prepare_problem, program_problem}) {
        std::string problem = check(manifest);
        if (!problem.empty()) return problem;
    }
    return "";
}

}  // namespace soda
