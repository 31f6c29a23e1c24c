// A backend that computes nothing and checks everything: liveness and dispatch bugs fail without an engine library.
//
// Each engine stamps (step label, slot) into every cache slot it writes, and on every read demands the stamp of the
// engine that wrote that value. Each step also demands the state of the step before it.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "host.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;  // of slots in the arena
constexpr size_t values_of_a_slot = 3;

using Stamp = std::array<char, 16>;

// 128 bits of (label, slot): FNV-1a from two starts.
Stamp stamp_of(const std::string& label, const std::string& slot) {
    Stamp stamp;
    uint64_t words[2] = {0xcbf29ce484222325, 0x84222325cbf29ce4};
    for (uint64_t& word : words)
        for (unsigned char c : label + "|" + slot) word = (word ^ c) * 0x100000001b3;
    std::memcpy(stamp.data(), words, sizeof words);
    return stamp;
}

// Memory that knows what was written into it last: one session, so one thread, uses it.
struct NullMemory : HostMemory {
    using HostMemory::HostMemory;
    std::string last_writer;                                  // of a state
    std::map<std::string, std::vector<std::string>> writers;  // of each slot's values, newest first
};

NullMemory& memory_of(const SodaView& view) {
    return *static_cast<NullMemory*>(view.memory);
}

char* bytes_of(const SodaView& view) {
    return memory_of(view).at(view.offset, view_bytes(view));
}

// Where a slot's stamps go, so that slots that overlap at all share one: the begin of each block of the arena's
// alignment, and what is left of the last. visit(place, bytes).
template <class Visit>
void each_place(const SodaView& view, Visit visit) {
    char* content = bytes_of(view);
    const int64_t size = view_bytes(view);
    for (int64_t begin = 0; begin < size; begin += alignment_bytes)
        visit(content + begin, size_t(std::min<int64_t>(sizeof(Stamp), size - begin)));
}

// "cache.12.ff.1" -> "12.ff" and 1.
std::pair<std::string, size_t> value_of(const std::string& name) {
    const size_t module = name.find('.') + 1, age = name.find('.', module);
    return age == std::string::npos ? std::make_pair(name, size_t(0))
                                    : std::make_pair(name.substr(0, age), size_t(name[age + 1] - '0'));
}

bool starts_with(const char* name, const char* prefix) {
    return std::strncmp(name, prefix, std::strlen(prefix)) == 0;
}

class NullCall {
public:
    NullCall(const char* label, ViewList inputs, ViewList outputs)
        : label_(label), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
        for (size_t i = 0; i < inputs_.size(); ++i) {
            names_.emplace_back(inputs_[i].name);
            bytes_of(inputs_[i]);  // inside its memory
        }
        for (const SodaView& view : outputs_) names_.emplace_back(view.name), bytes_of(view);
    }

    void run() {
        const SodaView *state = nullptr, *state_out = nullptr;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            if (names_[i] == "state") state = &inputs_[i];
            if (starts_with(names_[i].c_str(), "cache.")) check_stamp(inputs_[i], names_[i].substr(6));
        }
        if (state) check_order(*state);
        for (size_t i = 0; i < outputs_.size(); ++i) {
            const std::string& name = names_[inputs_.size() + i];
            if (name == "state_out") state_out = &outputs_[i];
            if (starts_with(name.c_str(), "cache_out.")) write_stamp(outputs_[i], name.substr(10));
        }
        if (!state || !state_out) return;
        std::memcpy(bytes_of(*state_out), bytes_of(*state), size_t(view_bytes(*state)));
        memory_of(*state_out).last_writer = label_;
    }

private:
    bool reads(const std::string& slot) const {
        for (size_t i = 0; i < inputs_.size(); ++i)
            if (names_[i] == "cache." + slot) return true;
        return false;
    }

    void write_stamp(const SodaView& view, const std::string& slot) const {
        auto& writers = memory_of(view).writers[slot];
        if (reads(slot) && !writers.empty()) writers.erase(writers.begin());  // the same value, renewed in part
        writers.insert(writers.begin(), label_);
        if (writers.size() > values_of_a_slot) writers.resize(values_of_a_slot);
        const Stamp stamp = stamp_of(label_, slot);
        each_place(view, [&](char* place, size_t bytes) { std::memcpy(place, stamp.data(), bytes); });
    }

    void check_stamp(const SodaView& view, const std::string& name) const {
        const auto [slot, age] = value_of(name);
        const auto& writers = memory_of(view).writers[slot];
        if (age >= writers.size())
            throw InternalError(say(label_, ": reads slot ", name, ", which nothing has written"));
        const Stamp stamp = stamp_of(writers[age], slot);
        bool holds = true;
        each_place(view, [&](char* place, size_t bytes) { holds = holds && !std::memcmp(place, stamp.data(), bytes); });
        if (!holds) throw InternalError(say(label_, ": slot ", name, " does not hold what ", writers[age], " wrote"));
    }

    // A step reads the state that the step before it wrote; step 0 reads what the request began with.
    void check_order(const SodaView& state) const {
        const int number = std::stoi(label_.substr(5));
        const std::string& writer = memory_of(state).last_writer;
        if (number > 0 && writer != say("step ", number - 1))
            throw InternalError(
                say(label_, ": the state was written by ", shown(writer), ", not by step ", number - 1));
    }

    std::string label_;
    ViewList inputs_, outputs_;
    std::vector<std::string> names_;  // the views' own end with bind
};

class NullEngine {
public:
    explicit NullEngine(const SodaProgram& program) {
        for (int32_t i = 0; i < program.num_inputs; ++i) names_.emplace_back(program.inputs[i].name);
        for (int32_t i = 0; i < program.num_outputs; ++i) names_.emplace_back(program.outputs[i].name);
    }

    std::unique_ptr<NullCall> bind(const char* label, ViewList inputs, ViewList outputs) const {
        std::vector<std::string> bound;
        for (const SodaView& view : inputs) bound.emplace_back(view.name);
        for (const SodaView& view : outputs) bound.emplace_back(view.name);
        if (bound != names_) throw InternalError(say(label, ": bound names differ from the program's signature"));
        return std::make_unique<NullCall>(label, std::move(inputs), std::move(outputs));
    }

private:
    std::vector<std::string> names_;
};

class NullBackend {
public:
    using Memory = NullMemory;
    using Engine = NullEngine;
    using Call = NullCall;

    explicit NullBackend(const SodaBackendOptions&) {}
    std::unique_ptr<Memory> allocate(int64_t bytes) const { return std::make_unique<Memory>(bytes); }
    std::unique_ptr<Engine> open_engine(const SodaProgram& program) const {
        if (::access(program.path, F_OK) != 0) throw InternalError(say(program.path, ": the engine does not exist"));
        return std::make_unique<Engine>(program);
    }
};

}  // namespace
}  // namespace soda

SODA_BACKEND(soda::NullBackend)
