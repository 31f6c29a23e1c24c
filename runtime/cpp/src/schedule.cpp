// Replay the schedule on places alone: every value read lies where it was written, and nothing has covered it.
#include <algorithm>
#include <set>

#include "consistency.hpp"
#include "errors.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;

struct Slot {
    std::string name;  // "<layer>.<module>"
    int age = -1;      // -1: no slot's name at all
};

// "12.ff", "12.ff.1" or "12.ff.2"; layers have no leading zeros.
Slot parse_slot(const Manifest& m, const std::string& text) {
    const size_t dot = text.find('.');
    if (dot == std::string::npos) return {};
    const std::string layer = text.substr(0, dot);
    if (!matches(layer, "0-9", "0-9", 5) || (layer.size() > 1 && layer[0] == '0')) return {};
    std::string module = text.substr(dot + 1);
    int age = 0;
    const size_t second = module.find('.');
    if (second != std::string::npos) {
        const std::string digit = module.substr(second + 1);
        if (digit != "1" && digit != "2") return {};
        age = digit[0] - '0';
        module.resize(second);
    }
    const int64_t number = std::stol(layer);
    const bool known = number < m.model.num_layers &&
                       std::find(m.model.modules.begin(), m.model.modules.end(), module) != m.model.modules.end();
    const bool stack = number == m.model.num_layers && module == "stack";
    return known || stack ? Slot{layer + "." + module, age} : Slot{};
}

// Which value of which slot lies where in the arena, and how many values each slot has had.
class Places {
public:
    explicit Places(int64_t slot_bytes) : slot_bytes_(slot_bytes) {}

    bool holds(const Slot& slot, int64_t begin) const {
        const auto place = value_at_.find(begin);
        const auto count = count_.find(slot.name);
        return place != value_at_.end() && place->second.first == slot.name && count != count_.end() &&
               place->second.second == count->second - slot.age;
    }

    // Whatever overlaps is gone. update: it is still the same value.
    void write(const std::string& slot, int64_t begin, bool update) {
        value_at_.erase(value_at_.upper_bound(begin - slot_bytes_), value_at_.lower_bound(begin + slot_bytes_));
        int64_t& count = count_[slot];
        count += !update;
        value_at_[begin] = {slot, count};
    }

private:
    int64_t slot_bytes_;
    std::map<int64_t, std::pair<std::string, int64_t>> value_at_;  // begin -> slot and number of the value
    std::map<std::string, int64_t> count_;
};

std::string step_problem(const Manifest& m, size_t index, Places& places) {
    const Step& step = m.steps[index];
    const Program& program = m.programs[size_t(step.program)];
    if (step.read_offsets.size() != program.reads.size() || step.write_offsets.size() != program.writes.size())
        return say("steps[", index, "] has another number of offsets than its program has slots");
    for (const Sizes* offsets : {&step.read_offsets, &step.write_offsets})
        for (int64_t offset : *offsets)
            if (offset < 0 || offset > m.arena.bytes - m.arena.slot_bytes || offset % alignment_bytes)
                return say("steps[", index, "] has an offset outside the arena of ", m.arena.bytes,
                           " bytes, or an unaligned one");
    std::map<std::string, int64_t> touched;  // a slot both read and written counts once
    for (size_t i = 0; i < program.reads.size(); ++i) {
        const std::string& name = program.reads[i];
        const int64_t offset = step.read_offsets[i];
        if (!places.holds(parse_slot(m, name), offset))
            return say("steps[", index, "] reads slot ", name, " at ", offset, ", which no longer or never held it");
        touched[name] = offset;
    }
    for (size_t i = 0; i < program.writes.size(); ++i) {
        const auto read = touched.find(program.writes[i]);
        if (read != touched.end() && read->second != step.write_offsets[i])
            return say("steps[", index, "] updates slot ", program.writes[i], " away from its place");
        touched[program.writes[i]] = step.write_offsets[i];
    }
    Sizes begins;
    for (const auto& [name, begin] : touched) begins.push_back(begin);
    std::sort(begins.begin(), begins.end());
    for (size_t i = 1; i < begins.size(); ++i)
        if (begins[i] - begins[i - 1] < m.arena.slot_bytes) return say("steps[", index, "] touches overlapping slots");
    for (size_t i = 0; i < program.writes.size(); ++i) {
        const std::string& name = program.writes[i];
        const bool update = std::find(program.reads.begin(), program.reads.end(), name) != program.reads.end();
        places.write(name, step.write_offsets[i], update);
    }
    return "";
}

}  // namespace

std::string program_problem(const Manifest& m) {
    if (m.baseline_program < 0 || m.baseline_program >= int64_t(m.programs.size()))
        return say("baseline_program=", m.baseline_program, " is not one of ", m.programs.size(), " programs");
    const Program& baseline = m.programs[size_t(m.baseline_program)];
    if (!baseline.reads.empty() || !baseline.writes.empty()) return "the baseline program touches the cache";
    std::set<std::string> tensors;
    for (const auto& tensor : m.tensors) tensors.insert(tensor.name);
    for (size_t i = 0; i < m.programs.size(); ++i) {
        const Program& program = m.programs[i];
        for (const auto& name : program.reads)
            if (parse_slot(m, name).age < 0)
                return say("programs[", i, "] names a cache slot that the model does not have");
        for (const auto& name : program.writes)
            if (parse_slot(m, name).age != 0)
                return say("programs[", i, "] writes what is not the latest value of a slot that the model has");
        if (has_duplicates(program.reads) || has_duplicates(program.writes))
            return say("programs[", i, "] names a cache slot twice");
        const auto known = [&](const std::string& name) { return tensors.count(name) != 0; };
        if (has_duplicates(program.inputs) || !std::all_of(program.inputs.begin(), program.inputs.end(), known))
            return say("programs[", i, "] takes a tensor twice, or one that is not there");
    }
    Places places(m.arena.slot_bytes);
    for (size_t i = 0; i < m.steps.size(); ++i) {
        if (m.steps[i].program < 0 || m.steps[i].program >= int64_t(m.programs.size()))
            return say("steps[", i, "].program=", m.steps[i].program, " does not exist");
        std::string problem = step_problem(m, i, places);
        if (!problem.empty()) return problem;
    }
    return "";
}

}  // namespace soda
