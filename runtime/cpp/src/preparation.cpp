// The programs before the steps: each takes what is there before it, and every tensor is made once.
#include <algorithm>
#include <set>

#include "consistency.hpp"
#include "errors.hpp"
#include "names.hpp"

namespace soda {
namespace {

using Words = std::set<std::string>;
const Words reserved_names = {"state",    "state_out", "coefficients", "baseline_coefficients",
                              "guidance", "noise",     "latents",      "image",
                              "video",    "audio"};

bool has(const Names& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

std::string name_problem(const Manifest& m) {
    Names names;
    for (const auto& port : m.ports) names.push_back(port.name);
    for (const auto& tensor : m.tensors) names.push_back(tensor.name);
    for (const auto& program : m.prepare) names.insert(names.end(), program.tables.begin(), program.tables.end());
    for (const auto& name : names)
        if (!matches(name, "a-z", "a-z0-9_", 64) || reserved_names.count(name))
            return say(shown(name), " is not a free, plain name of a port, a tensor or a table");
    return has_duplicates(names) ? "a name of a port, a tensor or a table stands twice" : "";
}

// One program: inputs that are there before it, outputs that are new and of its kind.
std::string order_problem(const Manifest& m, const PrepareProgram& program, const std::map<std::string, bool>& per_step,
                          const Words& made) {
    const auto is_port = [&](const std::string& name) { return find_port(m, name) != nullptr; };
    for (const auto& name : program.inputs)
        if (!is_port(name) && (made.count(name) == 0 || per_step.at(name)))
            return say("takes ", shown(name), ", which nothing before it gives");
    if (has_duplicates(program.inputs) || program.outputs.empty()) return "has an input twice, or no output";
    const bool of_ports = program.tables.empty() && std::all_of(program.inputs.begin(), program.inputs.end(), is_port);
    const bool encodes = of_ports && is_encoder(m, program);
    for (const auto& name : program.outputs) {
        const auto tensor = per_step.find(name);
        const bool fits =
            encodes ? is_port(name) : tensor != per_step.end() && tensor->second != program.tables.empty();
        if (!fits) return say("makes ", shown(name), ", which is no output of its kind of program");
        if (made.count(name)) return say("makes ", shown(name), ", which was made before");
    }
    return has_duplicates(program.outputs) ? "makes something twice" : "";
}

// Encoders run before all other programs, unless the request gives what they make.
std::string encoder_problem(const Manifest& m) {
    Words taken, made;
    for (size_t i = 0; i < m.prepare.size(); ++i) {
        const PrepareProgram& program = m.prepare[i];
        if (!is_encoder(m, program)) continue;
        bool encodes = false;
        for (const auto& name : program.inputs) {
            const PortKind kind = find_port(m, name)->kind;
            encodes = encodes || kind == PortKind::token_ids || kind == PortKind::embedding;
            taken.insert(name);
        }
        if (!encodes) return say("prepare[", i, "] makes ports, and takes neither token ids nor embeddings");
        for (const auto& name : program.outputs) {
            const PortKind kind = find_port(m, name)->kind;
            if (kind != PortKind::embedding && kind != PortKind::mask)
                return say("prepare[", i, "] makes ", shown(name), ", which is no embedding and no mask");
            made.insert(name);
        }
    }
    for (const auto& name : made)
        if (taken.count(name)) return say(shown(name), " is both made and taken by encoders");
    return "";
}

// Each tokenizer serves one port of token ids, which encoders alone take.
std::string token_problem(const Manifest& m) {
    std::vector<int> ids(m.tokenizers.size()), masks(m.tokenizers.size());
    for (const auto& port : m.ports) {
        if (port.kind == PortKind::token_mask) ++masks[size_t(port.tokenizer)];
        if (port.kind != PortKind::token_ids) continue;
        ++ids[size_t(port.tokenizer)];
        bool encoded = false, elsewhere = false;
        for (const auto& program : m.prepare)
            if (has(program.inputs, port.name)) (is_encoder(m, program) ? encoded : elsewhere) = true;
        for (const auto& program : m.programs) elsewhere = elsewhere || has(program.inputs, port.name);
        if (!encoded || elsewhere) return say("port ", shown(port.name), " of token ids is for encoders alone");
    }
    for (size_t i = 0; i < ids.size(); ++i)
        if (ids[i] != 1 || masks[i] > 1)
            return say("tokenizers[", i, "] has ", ids[i], " ports of token ids and ", masks[i], " of masks");
    return "";
}

}  // namespace

std::string prepare_problem(const Manifest& m) {
    std::string problem = name_problem(m);
    if (!problem.empty()) return problem;
    std::map<std::string, bool> per_step;
    for (const auto& tensor : m.tensors) per_step[tensor.name] = tensor.per_step;
    Words made;
    for (size_t i = 0; i < m.prepare.size(); ++i) {
        problem = order_problem(m, m.prepare[i], per_step, made);
        if (!problem.empty()) return say("prepare[", i, "] ", problem);
        made.insert(m.prepare[i].outputs.begin(), m.prepare[i].outputs.end());
    }
    for (const auto& [name, each] : per_step)
        if (made.count(name) == 0) return say("no prepare program makes ", shown(name));
    problem = encoder_problem(m);
    return problem.empty() ? token_problem(m) : problem;
}

}  // namespace soda
