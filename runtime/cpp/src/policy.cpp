#include "policy.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "consistency.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "manifest_parts.hpp"
#include "names.hpp"

namespace soda {
namespace {

constexpr int64_t most_signals = 4, most_actions = 8, most_run = 16, most_gap = 8, most_power = 4;
constexpr int64_t max_policy_bytes = 16 << 20;
constexpr int64_t max_policy_tables_bytes = 1 << 30;  // tables are read whole
constexpr float max_value = 1e18f;                    // so that a product of two is finite in float32

Action decode_action(const Field& field) {
    field.object({"name", "program", "table", "signals"});
    return {field["name"].string(), field["program"].integer(), field["table"].string(), field["signals"].string()};
}

Rule decode_rule(const Field& field) {
    field.object({"action", "always", "threshold"});
    return {field["action"].integer(), field["always"].boolean(), field["threshold"].number()};
}

Policy decode_policy(const Field& root) {
    root.object({"format", "version", "name", "signals", "held", "root", "accumulate", "power", "max_run", "gap",
                 "actions", "rules", "tables"});
    root["version"].integer();
    Policy policy;
    policy.name = root["name"].string();
    policy.signals = root["signals"].string();
    for (const Field& held : root["held"].array()) policy.held.push_back(held.boolean());
    policy.root = root["root"].boolean();
    policy.accumulate = root["accumulate"].boolean();
    policy.power = root["power"].integer();
    policy.max_run = root["max_run"].integer();
    policy.gap = root["gap"].integer();
    policy.actions = decode_each(root["actions"], decode_action);
    policy.rules = decode_each(root["rules"], decode_rule);
    policy.tables = root["tables"].string();
    return policy;
}

std::string range_problem(const Policy& policy) {
    const struct {
        const char* name;
        int64_t value, low, high;
    } ranges[] = {{"len(held)", int64_t(policy.held.size()), 1, most_signals},
                  {"power", policy.power, 0, most_power},
                  {"max_run", policy.max_run, 1, most_run},
                  {"gap", policy.gap, 1, most_gap},
                  {"len(actions)", int64_t(policy.actions.size()), 2, most_actions}};
    for (const auto& range : ranges)
        if (range.value < range.low || range.value > range.high)
            return say(range.name, "=", range.value, " is outside ", range.low, " .. ", range.high);
    return "";
}

std::string name_problem(const Policy& policy) {
    Names names, tables;
    std::set<std::string> signals;
    for (const Action& action : policy.actions) {
        names.push_back(action.name);
        tables.push_back(action.table);
        signals.insert(action.signals);
    }
    Names words = names, used = tables;
    words.push_back(policy.name);
    words.insert(words.end(), tables.begin(), tables.end());
    words.insert(words.end(), signals.begin(), signals.end());
    for (const auto& word : words)
        if (!matches(word, "a-z", "a-z0-9_-", 64)) return say(shown(word), " is not a plain name");
    used.insert(used.end(), signals.begin(), signals.end());
    return has_duplicates(names) || has_duplicates(used) ? "actions: a name or a table stands twice" : "";
}

std::string action_problem(const Policy& policy, const Manifest& m) {
    for (size_t i = 0; i < policy.actions.size(); ++i) {
        const int64_t program = policy.actions[i].program;
        if (program < 0 || program >= int64_t(m.programs.size()))
            return say("actions[", i, "].program=", program, " does not exist");
        const Program& used = m.programs[size_t(program)];
        if (!used.reads.empty() || !used.writes.empty())
            return say("actions[", i, "]: ", used.file, " touches the cache");
    }
    if (policy.actions[full_action].program != m.baseline_program)
        return "actions[0] does not run the baseline program";
    if (int64_t(policy.rules.size()) != m.sampler.steps - 1)
        return say(policy.rules.size(), " rules, expected ", m.sampler.steps - 1);
    for (size_t i = 0; i < policy.rules.size(); ++i)
        if (policy.rules[i].action < 0 || policy.rules[i].action >= int64_t(policy.actions.size()))
            return say("rules[", i, "].action=", policy.rules[i].action, " does not exist");
    return "";
}

// Its files are the bundle's, and of no other use.
std::string use_problem(const Policy& policy, const Manifest& m, const std::string& own) {
    Names used = files_in_use(m);
    used.push_back(own);
    for (const auto& file : {policy.signals, policy.tables}) {
        if (m.files.count(file) == 0) return say("file ", shown(file), " is used but not listed in the manifest");
        if (std::find(used.begin(), used.end(), file) != used.end()) return say("file ", shown(file), " has two uses");
        used.push_back(file);
    }
    const int64_t bytes = m.files.at(policy.tables).bytes;
    if (bytes > max_policy_tables_bytes)
        return say(policy.tables, " has ", bytes, " bytes, at most ", max_policy_tables_bytes, " are read");
    return "";
}

std::string first_policy_problem(const Policy& policy, const Manifest& m, const std::string& own) {
    std::string problem = range_problem(policy);
    if (problem.empty()) problem = name_problem(policy);
    if (problem.empty()) problem = action_problem(policy, m);
    return problem.empty() ? use_problem(policy, m, own) : problem;
}

// Length of a row: for each signal two forms, each of the tensors before the step, of those after it, and of 1.
int64_t signal_columns(const Manifest& m, const Policy& policy) {
    return int64_t(policy.held.size()) * 2 * (2 * m.sampler.state_size + 1);
}

}  // namespace

const float* OpenedPolicy::row(const std::string& table, int64_t step, int64_t variant) const {
    const Table& rows = tables.at(table);
    const int64_t variants = rows.shape[1], number = variants > 1 ? variant : 0;
    return rows.values.data() + (step * variants + number) * rows.shape[2];
}

Policy parse_policy(std::string_view text, const std::string& where) {
    const Json value = parse_json(text);
    if (!value.is_object() || value.value("format", Json()) != "soda-policy" || value.value("version", Json()) != 1)
        throw BundleError(say(where, ": not a soda-policy file of version 1; update soda-runtime or rebuild"));
    require_printable(value);
    return decode_policy(Field(value));
}

std::optional<Policy> read_rules(const std::string& folder, const Manifest& manifest, const std::string& name) {
    if (manifest.version != current_version || manifest.files.count(name) == 0) return {};
    const std::string path = folder + "/" + name;
    try {
        const int64_t bytes = stamp_of(path).bytes;
        if (bytes > max_policy_bytes)
            throw StrictJsonError(say(bytes, " bytes, at most ", max_policy_bytes, " are read"));
        Policy policy = parse_policy(read_bytes(path, 0, bytes), path);
        const std::string problem = first_policy_problem(policy, manifest, name);
        if (!problem.empty()) throw StrictJsonError(problem);
        return policy;
    } catch (const StrictJsonError& error) {
        throw BundleError(say(path, ": ", error.what(), "; ", rebuild));
    }
}

std::optional<OpenedPolicy> read_policy(const std::string& folder, const Manifest& manifest, const std::string& own) {
    const auto policy = read_rules(folder, manifest, own);
    if (!policy) return {};
    const std::string path = folder + "/" + policy->tables;
    const auto refuse = [&](const auto&... what) { return BundleError(say(path, ": ", what..., "; ", rebuild)); };
    std::map<std::string, int64_t> columns;
    for (const Action& action : policy->actions) {
        columns[action.table] = scalar_count(manifest);
        columns[action.signals] = signal_columns(manifest, *policy);
    }
    auto tables = read_tables(path);
    for (const auto& [name, count] : columns)
        if (tables.count(name) == 0) throw refuse("table ", shown(name), " is missing");
    for (const auto& [name, table] : tables) {
        const auto wanted = columns.find(name);
        if (wanted == columns.end()) throw refuse("table ", shown(name), " is not in ", own);
        const Sizes whole = {manifest.sampler.steps, policy->variants(), wanted->second};
        if (table.shape != whole && table.shape != Sizes{whole[0], 1, whole[2]})
            throw refuse("table ", shown(name), " is not float32 [", whole[0], ", ", whole[1], ", ", whole[2], "]");
        if (!std::all_of(table.values.begin(), table.values.end(),
                         [](float value) { return std::abs(value) <= max_value; }))
            throw refuse("table ", shown(name), " has a value that is not within ", max_value);
    }
    return OpenedPolicy{*policy, std::move(tables)};
}

Signature signals_signature(const Manifest& manifest, const Policy& policy) {
    Sizes shape = {manifest.sampler.state_size, batch_axis};
    shape.insert(shape.end(), manifest.model.latent_shape.begin(), manifest.model.latent_shape.end());
    const Port state{Dtype::float32, shape};
    return {{{"state", state},
             {"state_out", state},
             {"signal_row", {Dtype::float32, {signal_columns(manifest, policy)}}}},
            {{"signal", {Dtype::float32, {batch_axis, int64_t(policy.held.size())}}}}};
}

}  // namespace soda
