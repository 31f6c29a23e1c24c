// policy.json: the rules by which a run decides after each step what the next one does, read and checked. BUNDLE.md
// section 15.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.hpp"
#include "signature.hpp"
#include "tensors.hpp"

namespace soda {

constexpr const char* policy_name = "policy.json";
constexpr int64_t full_action = 0;  // computes everything; every policy's first

// What follows a step. Another action than the full one is taken where the value that is compared is at most
// `threshold`, or, with `always`, whatever it is; otherwise the next step computes.
struct Rule {
    int64_t action;
    bool always;
    double threshold;
};

// What a step may do: one of the bundle's programs, with the rows of a table [S, variants, columns]; and the table of
// the rows that signals after such a step are computed with.
struct Action {
    std::string name;
    int64_t program;
    std::string table, signals;
};

// policy.json, whole; section 15.1 explains its keys. signals, tables: files.
struct Policy {
    std::string name, signals;
    std::vector<bool> held;
    bool root, accumulate;
    int64_t power, max_run, gap;
    std::vector<Action> actions;
    std::vector<Rule> rules;
    std::string tables;

    // Rows of a step in a table that tells variants apart.
    int64_t variants() const { return gap * (max_run + 1); }
};

// A policy with its tables: name -> [S, 1 or variants, columns].
struct OpenedPolicy {
    Policy policy;
    std::map<std::string, Table> tables;

    // What a program takes at a step, and how many numbers that is.
    const float* row(const std::string& table, int64_t step, int64_t variant) const;
    int64_t columns(const std::string& table) const { return tables.at(table).shape[2]; }
};

// The text of a policy.json, its types alone checked. Raises StrictJsonError, BundleError for another format.
Policy parse_policy(std::string_view text, const std::string& where);
// policy.json of a bundle that lists it, held against its manifest; none where it does not. Raises BundleError.
std::optional<Policy> read_rules(const std::string& folder, const Manifest& manifest,
                                 const std::string& name = policy_name);
// The same with its tables, of a bundle whose files have been hashed.
std::optional<OpenedPolicy> read_policy(const std::string& folder, const Manifest& manifest,
                                        const std::string& name = policy_name);
// What the program of the signals must take and give: the state before and after a step, and a row of the table.
Signature signals_signature(const Manifest& manifest, const Policy& policy);

}  // namespace soda
