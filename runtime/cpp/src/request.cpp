#include "request.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.hpp"

namespace soda {
namespace {

constexpr int64_t max_samples = 65536;

// Values that a request gives for a port, if it does.
struct PortInputs {
    const Given* positive = nullptr;
    const Given* negative = nullptr;
};

using InputsByPort = std::map<const RequestPort*, PortInputs>;

InputsByPort sort_inputs(const Manifest& manifest, const std::vector<Given>& inputs) {
    InputsByPort by_port;
    for (const Given& given : inputs) {
        if (given.negative && !has_negatives(manifest, *given.port))
            throw RequestError(say(given.name, ": a negative has no effect here; leave it out"));
        PortInputs& found = by_port[given.port];
        const Given*& place = given.negative ? found.negative : found.positive;
        if (place) throw RequestError(say(given.name, ": port '", given.port->name, "' is given twice"));
        place = &given;
    }
    return by_port;
}

int64_t count_samples(const std::vector<Given>& inputs, int64_t wanted, int64_t start_latents) {
    if (wanted < 0 || wanted > max_samples)
        throw RequestError(say("samples=", wanted, " is outside 0 .. ", max_samples));
    int64_t samples = std::max<int64_t>(wanted, 1);
    if (wanted == 0) samples = std::max(samples, start_latents);
    for (const Given& given : inputs)
        if (!given.negative && wanted == 0) samples = std::max(samples, given.rows);
    if (samples > max_samples) throw RequestError(say(samples, " samples are more than ", max_samples));
    for (const Given& given : inputs)
        if (given.rows != 1 && given.rows != samples)
            throw RequestError(
                say(given.name, ": ", given.rows, " rows for ", samples, " samples; give one, or one per sample"));
    return samples;
}

template <class T, class Fits>
void judge_each(const Given& given, Fits fits, const std::string& problem) {
    const auto* values = reinterpret_cast<const T*>(given.host);
    const int64_t count = checked_product(given.rows, element_count(given.port->shape));
    if (!std::all_of(values, values + count, fits)) throw RequestError(say(given.name, ": ", problem));
}

// Anything else than the vocabulary's ids an engine library may compute with in silence. size 0: not known.
void judge_tokens(const Given& given, int64_t size) {
    judge_each<int64_t>(given, [](int64_t value) { return value >= 0; }, "token ids below 0");
    judge_each<int64_t>(
        given, [&](int64_t value) { return size == 0 || value < size; },
        say("a token id is outside 0 .. ", size - 1));
}

// Values on the host; those on the device are the caller's to see to.
void judge_values(const Given& given, const Vocabulary& vocabulary) {
    const RequestPort& port = *given.port;
    const int64_t bytes = checked_product(given.rows, request_port(port).bytes({1, 1, 1}));
    if (given.bytes && *given.bytes < bytes)
        throw RequestError(say(given.device ? "device array '" : "input '", given.name, "' has ", *given.bytes,
                               " bytes, the request takes ", bytes),
                           SODA_REQUEST_ARGUMENT);
    if (!given.host) return;
    const float least = float(port.least), most = float(port.most);
    switch (port.kind) {
        case PortKind::label:
            return judge_each<int64_t>(
                given, [&](int64_t value) { return value >= 0 && value < port.num_classes; },
                say("a label is outside 0 .. ", port.num_classes - 1));
        case PortKind::token_ids:
            return judge_tokens(given, vocabulary(size_t(port.tokenizer)));
        case PortKind::token_mask:
        case PortKind::mask:
            return judge_each<int64_t>(
                given, [](int64_t value) { return value == 0 || value == 1; }, "has values other than 0 and 1");
        case PortKind::embedding:
        case PortKind::hint:
            return judge_each<float>(
                given, [](float value) { return std::isfinite(value); }, "has values that are not finite");
        case PortKind::scalar:
            return judge_each<float>(
                given, [&](float value) { return value >= least && value <= most; },
                say("is outside ", port.least, " .. ", port.most));
    }
}

// Rows of one port, one part of the samples after the other.
class Rows {
public:
    Rows(Condition& condition, const RequestPort& port)
        : condition_(condition), port_(port), row_bytes_(request_port(port).bytes({1, 1, 1})) {}

    void add(const Given& given) {
        if (given.device) {
            condition_.on_device.push_back(
                {port_.name, rows_, given.device, given.rows, condition_.samples, row_bytes_});
            rows_ += condition_.samples;
        } else {
            add(given.host, given.rows);
        }
    }

    void add(const void* host, int64_t given) {
        const auto* from = static_cast<const char*>(host);
        const int64_t begin = rows_ * row_bytes_;
        rows_ += condition_.samples;
        values_.resize(size_t(rows_ * row_bytes_));  // zeros for what is on the device
        for (int64_t i = 0; i < condition_.samples; ++i)
            std::memcpy(values_.data() + begin + i * row_bytes_, from + (given == 1 ? 0 : i * row_bytes_),
                        size_t(row_bytes_));
    }

    std::vector<char> values() {
        if (!values_.empty()) values_.resize(size_t(rows_ * row_bytes_));
        return std::move(values_);
    }

private:
    Condition& condition_;
    const RequestPort& port_;
    int64_t row_bytes_, rows_ = 0;
    std::vector<char> values_;
};

// Which encoders run: those whose outputs the request does not give.
std::vector<size_t> choose_encoders(const Manifest& manifest, const InputsByPort& given) {
    std::vector<size_t> running;
    for (size_t i = 0; i < manifest.prepare.size(); ++i) {
        const PrepareProgram& program = manifest.prepare[i];
        if (!is_encoder(manifest, program)) continue;
        size_t count = 0;
        for (const auto& name : program.outputs) count += given.count(find_port(manifest, name));
        if (count == 0) running.push_back(i);
        if (count != 0 && count != program.outputs.size())
            throw RequestError(say("some of what ", shown(program.file), " makes is given, but not all: give '",
                                   program.outputs.front(), "' to '", program.outputs.back(), "', or none of them"));
    }
    return running;
}

bool contains(const Names& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Whether a program that the request runs takes the port, or makes it.
struct PortUse {
    bool taken, made, by_encoder;
};

PortUse use_of(const Manifest& manifest, const RequestPort& port, const std::vector<size_t>& encoders) {
    PortUse use{false, false, false};
    bool by_skipped = false;
    for (size_t i = 0; i < manifest.prepare.size(); ++i) {
        const PrepareProgram& program = manifest.prepare[i];
        const bool encodes = is_encoder(manifest, program);
        const bool runs = !encodes || std::find(encoders.begin(), encoders.end(), i) != encoders.end();
        const bool takes = contains(program.inputs, port.name);
        use.taken = use.taken || (runs && takes);
        use.by_encoder = use.by_encoder || (runs && takes && encodes);
        by_skipped = by_skipped || (!runs && takes);
        use.made = use.made || (runs && contains(program.outputs, port.name));
    }
    for (const auto& program : manifest.programs) use.taken = use.taken || contains(program.inputs, port.name);
    use.taken = use.taken || !by_skipped;
    return use;
}

void add_port(const Manifest& manifest, const RequestPort& port, const PortInputs& given, Condition& condition) {
    Rows rows(condition, port);
    const float default_value = float(port.default_value);
    const bool guided = manifest.rows_per_sample == 2;
    for (int64_t half = 0; half < manifest.rows_per_sample; ++half) {
        if (half == 1 && port.kind == PortKind::label)
            rows.add(&port.null_class, 1);
        else if (half == 1 && given.negative)
            rows.add(*given.negative);
        else if (given.positive)
            rows.add(*given.positive);
        else
            rows.add(&default_value, 1);
    }
    if (guided && has_negatives(manifest, port) && !given.negative)
        throw RequestError(say("this bundle was built with guidance: '", port.name, "' needs its negative"));
    condition.values[port.name] = rows.values();
}

}  // namespace

Condition judge_condition(const Manifest& manifest, const std::vector<Given>& inputs, int64_t samples,
                          int64_t start_latents, const Vocabulary& vocabulary) {
    const InputsByPort by_port = sort_inputs(manifest, inputs);
    Condition condition;
    condition.samples = count_samples(inputs, samples, start_latents);
    for (const Given& given : inputs) judge_values(given, vocabulary);
    condition.encoders = choose_encoders(manifest, by_port);
    for (const RequestPort& port : manifest.ports) {
        const PortUse use = use_of(manifest, port, condition.encoders);
        const auto found = by_port.find(&port);
        const PortInputs given = found == by_port.end() ? PortInputs{} : found->second;
        if (given.negative && !given.positive)
            throw RequestError(say(given.negative->name, " comes without '", port.name, "'"));
        if (given.positive && port.kind == PortKind::token_ids && !use.by_encoder)
            throw RequestError(say("'", given.positive->name, "' has no effect beside embeddings; give one of them"));
        if (given.positive || (port.kind == PortKind::scalar && !use.made))
            add_port(manifest, port, given, condition);
        else if (use.taken && !use.made)
            throw RequestError(say("the request does not give '", port.name, "'"));
    }
    return condition;
}

}  // namespace soda
