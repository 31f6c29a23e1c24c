// A backend that computes nothing and checks everything: liveness and dispatch bugs fail without an engine library.
//
// Each engine stamps (step label, slot) into every cache slot it writes, and on every read demands the stamp of the
// engine that wrote that value. Each step also demands the state of the step before it. Signals are scripted: after odd
// steps the first one is 0, after even ones 1e30, and the others are 1.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "host.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;  // of slots in the arena
constexpr size_t values_of_a_slot = 3;
constexpr float large_signal = 1e30f;

const std::string the_request = "the request";

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

    void write(int64_t offset, const void* from, int64_t bytes) {
        HostMemory::write(offset, from, bytes);
        last_writer = the_request;
    }

    std::string last_writer;                                  // of a state: a step, or the request
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

// A slot's value that a call reads or writes.
struct SlotView {
    SodaView view;
    std::string slot;
    size_t age;
};

class NullCall {
public:
    explicit NullCall(const char* label) : label_(label) {}

    // slot, age: the slot's value that it is.
    void add(const SodaView& view, const std::optional<std::string>& slot, int32_t age, bool input) {
        bytes_of(view);  // inside its memory
        const std::string name = view.name;
        if (slot) (input ? reads_ : writes_).push_back({view, *slot, size_t(age)});
        if (name == "state") state_ = view;
        if (name == "state_out") state_out_ = view;
        if (name == "state_out") listens_ = input;
        if (name == "signal") signal_ = view;
    }

    void run() {
        if (listens_) return write_signals();
        for (const SlotView& read : reads_) check_stamp(read);
        if (state_) check_order(*state_);
        for (const SlotView& write : writes_) write_stamp(write);
        if (!state_ || !state_out_) return;
        std::memcpy(bytes_of(*state_out_), bytes_of(*state_), size_t(view_bytes(*state_)));
        memory_of(*state_out_).last_writer = label_;
    }

private:
    bool reads_latest(const std::string& slot) const {
        return std::any_of(reads_.begin(), reads_.end(),
                           [&](const SlotView& read) { return read.slot == slot && read.age == 0; });
    }

    void write_stamp(const SlotView& write) const {
        auto& writers = memory_of(write.view).writers[write.slot];
        if (reads_latest(write.slot) && !writers.empty()) writers.erase(writers.begin());  // the same value, renewed
        writers.insert(writers.begin(), label_);
        if (writers.size() > values_of_a_slot) writers.resize(values_of_a_slot);
        const Stamp stamp = stamp_of(label_, write.slot);
        each_place(write.view, [&](char* place, size_t bytes) { std::memcpy(place, stamp.data(), bytes); });
    }

    void check_stamp(const SlotView& read) const {
        const auto& writers = memory_of(read.view).writers[read.slot];
        if (read.age >= writers.size())
            throw InternalError(say(label_, ": reads ", describe(read), ", which nothing has written"));
        const Stamp stamp = stamp_of(writers[read.age], read.slot);
        bool holds = true;
        each_place(read.view,
                   [&](char* place, size_t bytes) { holds = holds && !std::memcmp(place, stamp.data(), bytes); });
        if (!holds)
            throw InternalError(say(label_, ": ", describe(read), " is not what ", writers[read.age], " wrote"));
    }

    static std::string describe(const SlotView& read) { return say("slot ", read.slot, " of age ", read.age); }

    // A step reads the state that the step before it wrote; the first one reads what the request began with.
    void check_order(const SodaView& state) const {
        const int number = std::stoi(label_.substr(5));
        const std::string& writer = memory_of(state).last_writer;
        if (writer != the_request && writer != say("step ", number - 1))
            throw InternalError(
                say(label_, ": the state was written by ", shown(writer), ", not by step ", number - 1));
    }

    // Signals stand between the states before and after one step.
    void write_signals() const {
        const std::string& before = memory_of(*state_).last_writer;
        const std::string& after = memory_of(*state_out_).last_writer;
        const int number = after.compare(0, 5, "step ") ? -1 : std::stoi(after.substr(5));
        if (number < 0 || (before != the_request && before != say("step ", number - 1)))
            throw InternalError(say(label_, ": the states were written by ", before, " and ", after));
        auto* values = reinterpret_cast<float*>(bytes_of(*signal_));
        for (int64_t b = 0; b < signal_->dims[0]; ++b)
            for (int64_t k = 0; k < signal_->dims[1]; ++k)
                values[b * signal_->dims[1] + k] = k ? 1.0f : number % 2 ? 0.0f : large_signal;
    }

    std::string label_;
    std::optional<SodaView> state_, state_out_, signal_;
    bool listens_ = false;  // a program of signals, which takes the state after a step, too
    std::vector<SlotView> reads_, writes_;
};

class NullEngine {
public:
    explicit NullEngine(const SodaProgram& program) {
        for (int32_t i = 0; i < program.num_inputs; ++i) inputs_.emplace_back(program.inputs[i]);
        for (int32_t i = 0; i < program.num_outputs; ++i) outputs_.emplace_back(program.outputs[i]);
    }

    std::unique_ptr<NullCall> bind(const char* label, const ViewList& inputs, const ViewList& outputs) const {
        auto call = std::make_unique<NullCall>(label);
        add_all(label, *call, inputs, inputs_, true);
        add_all(label, *call, outputs, outputs_, false);
        return call;
    }

private:
    // A port whose strings are kept.
    struct KeptPort {
        std::string name;
        std::optional<std::string> slot;
        int32_t age;

        explicit KeptPort(const SodaPort& port) : name(port.name), age(port.age) {
            if (port.slot) slot = port.slot;
        }
    };

    static void add_all(const char* label, NullCall& call, const ViewList& views, const std::vector<KeptPort>& ports,
                        bool input) {
        bool same = views.size() == ports.size();
        for (size_t i = 0; same && i < views.size(); ++i) same = views[i].name == ports[i].name;
        if (!same) throw InternalError(say(label, ": bound names differ from the program's signature"));
        for (size_t i = 0; i < views.size(); ++i) call.add(views[i], ports[i].slot, ports[i].age, input);
    }

    std::vector<KeptPort> inputs_, outputs_;
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
