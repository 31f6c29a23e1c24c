// Replay the schedule on places alone: every value read lies where it was written, and nothing has covered it.
#include <algorithm>
#include <set>

#include "consistency.hpp"
#include "errors.hpp"
#include "names.hpp"
#include "signature.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;

// Which value of which slot lies where in the arena, and how many values each slot has had.
class Places {
public:
    explicit Places(size_t num_slots) : count_(num_slots) {}

    bool holds(const SlotValue& value, int64_t begin) const {
        const auto place = at_.find(begin);
        return place != at_.end() && place->second.slot == value.slot &&
               place->second.number == count_[size_t(value.slot)] - value.age;
    }

    // Whatever overlaps is gone. update: it is still the same value.
    void write(int64_t slot, int64_t begin, int64_t end, bool update) {
        auto first = at_.lower_bound(begin);
        if (first != at_.begin() && std::prev(first)->second.end > begin) --first;
        at_.erase(first, at_.lower_bound(end));
        count_[size_t(slot)] += !update;
        at_[begin] = {slot, count_[size_t(slot)], end};
    }

private:
    struct Value {
        int64_t slot, number, end;
    };

    std::map<int64_t, Value> at_;  // by begin; they do not overlap
    Sizes count_;                  // by slot
};

// begin and end of a place; a slot both read and written counts once
using Touched = std::map<std::string, std::pair<int64_t, int64_t>>;

std::string place_problem(const Manifest& m, size_t index, const std::vector<SlotValue>& values, const Sizes& offsets,
                          Touched& touched) {
    for (size_t i = 0; i < values.size(); ++i) {
        const int64_t bytes = slot_bytes(m, m.slots[size_t(values[i].slot)]), begin = offsets[i];
        if (begin < 0 || begin > m.arena.bytes - bytes || begin % alignment_bytes)
            return say("steps[", index, "] has an offset outside the arena of ", m.arena.bytes,
                       " bytes, or an unaligned one");
        const auto [known, fresh] = touched.emplace(values[i].text, std::make_pair(begin, begin + bytes));
        if (!fresh && known->second.first != begin)
            return say("steps[", index, "] updates slot ", values[i].text, " away from its place");
    }
    return "";
}

std::string step_problem(const Manifest& m, size_t index, Places& places) {
    const Step& step = m.steps[index];
    const Program& program = m.programs[size_t(step.program)];
    if (step.read_offsets.size() != program.reads.size() || step.write_offsets.size() != program.writes.size())
        return say("steps[", index, "] has another number of offsets than its program has slots");
    Touched touched;
    std::string problem = place_problem(m, index, program.reads, step.read_offsets, touched);
    if (problem.empty()) problem = place_problem(m, index, program.writes, step.write_offsets, touched);
    if (!problem.empty()) return problem;
    std::vector<std::pair<int64_t, int64_t>> in_order;
    for (const auto& [name, place] : touched) in_order.push_back(place);
    std::sort(in_order.begin(), in_order.end());
    for (size_t i = 1; i < in_order.size(); ++i)
        if (in_order[i].first < in_order[i - 1].second) return say("steps[", index, "] touches overlapping slots");
    std::set<std::string> read;
    for (size_t i = 0; i < program.reads.size(); ++i) {
        if (!places.holds(program.reads[i], step.read_offsets[i]))
            return say("steps[", index, "] reads slot ", program.reads[i].text, " at ", step.read_offsets[i],
                       ", which no longer or never held it");
        read.insert(program.reads[i].text);
    }
    for (size_t i = 0; i < program.writes.size(); ++i) {
        const SlotValue& value = program.writes[i];
        const auto& [begin, end] = touched.at(value.text);
        places.write(value.slot, begin, end, read.count(value.text) != 0);
    }
    return "";
}

bool names_twice(const std::vector<SlotValue>& values) {
    Names names;
    for (const SlotValue& value : values) names.push_back(value.text);
    return has_duplicates(names);
}

}  // namespace

std::string program_problem(const Manifest& m) {
    if (m.baseline_program < 0 || m.baseline_program >= int64_t(m.programs.size()))
        return say("baseline_program=", m.baseline_program, " is not one of ", m.programs.size(), " programs");
    const Program& baseline = m.programs[size_t(m.baseline_program)];
    if (!baseline.reads.empty() || !baseline.writes.empty()) return "the baseline program touches the cache";
    std::set<std::string> known;
    for (const auto& tensor : m.tensors) known.insert(tensor.name);
    for (const auto& port : m.ports) known.insert(port.name);
    for (size_t i = 0; i < m.programs.size(); ++i) {
        const Program& program = m.programs[i];
        for (const auto* values : {&program.reads, &program.writes})
            for (const SlotValue& value : *values)
                if (value.slot < 0 || (value.age && values == &program.writes))
                    return say("programs[", i, "] names ", shown(value.text), ", which is no such value of a slot");
        if (names_twice(program.reads) || names_twice(program.writes))
            return say("programs[", i, "] names a slot twice");
        const auto is_known = [&](const std::string& name) { return known.count(name) != 0; };
        if (has_duplicates(program.inputs) || !std::all_of(program.inputs.begin(), program.inputs.end(), is_known))
            return say("programs[", i, "] takes an input twice, or one that is not there");
    }
    Places places(m.slots.size());
    for (size_t i = 0; i < m.steps.size(); ++i) {
        if (m.steps[i].program < 0 || m.steps[i].program >= int64_t(m.programs.size()))
            return say("steps[", i, "].program=", m.steps[i].program, " does not exist");
        std::string problem = step_problem(m, i, places);
        if (!problem.empty()) return problem;
    }
    return "";
}

}  // namespace soda
