// The C edge: handles in, status codes out. Every exception ends here as a status and the thread's last error.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>

#include "describe.hpp"
#include "errors.hpp"
#include "guard.hpp"
#include "philox.hpp"
#include "printable.hpp"
#include "session.hpp"
#include "soda_runtime.h"
#include "starts.hpp"

#ifndef SODA_RUNTIME_VERSION
#define SODA_RUNTIME_VERSION "unknown"
#endif

struct soda_bundle {
    std::shared_ptr<soda::Bundle> bundle;
};

struct soda_session {
    soda::Session session;
    mutable soda::Turn turn;

    explicit soda_session(std::shared_ptr<soda::Bundle> bundle) : session(std::move(bundle)) {}
};

namespace soda {
namespace {

std::string& last_error() {
    static thread_local std::string message;
    return message;
}

constexpr int32_t max_threads = 1024;  // an engine library starts all of them: thousands take it minutes

// A path, or what an engine library says of a graph, may have any bytes; the message is one line of UTF-8.
soda_status fail(soda_status status, const char* message) noexcept {
    try {
        last_error() = printable(message);
    } catch (...) {
        return SODA_ENGINE_MEMORY;
    }
    return status;
}

template <class Body>
soda_status guarded(Body body) noexcept {
    try {
        body();
        return SODA_OK;
    } catch (const Error& error) {
        return fail(error.status, error.what());
    } catch (const std::bad_alloc&) {
        return fail(SODA_ENGINE_MEMORY, "out of memory; use a smaller batch");
    } catch (const std::length_error&) {
        return fail(SODA_ENGINE_MEMORY, "more memory than there are addresses; use a smaller batch");
    } catch (const std::exception& error) {
        return fail(SODA_INTERNAL_ERROR, error.what());
    } catch (...) {
        return fail(SODA_INTERNAL_ERROR, "an unknown exception");
    }
}

[[noreturn]] void refuse(const std::string& message) {
    throw RequestError(message, SODA_REQUEST_ARGUMENT);
}

void demand(const void* pointer, const char* name) {
    if (!pointer) refuse(say(name, " is NULL"));
}

// body(session), in the process that opened it and in its turn.
template <class Handle, class Body>
soda_status in_turn(Handle* session, Body body) noexcept {
    return guarded([&] {
        demand(session, "session");
        session->session.bundle().require_here();
        if (session->session.calls_back_here())
            throw RequestError("the progress callback may look at its session and cancel, but not play or reset it");
        const Turn::Taken taken(session->turn);
        body(session->session);
    });
}

// The same for what changes nothing, so that the progress callback of the one who has the turn may do it, too.
template <class Handle, class Body>
soda_status looking(Handle* session, Body body) noexcept {
    if (!session || !session->session.calls_back_here()) return in_turn(session, body);
    return guarded([&] { body(session->session); });
}

// A caller's struct in this library's layout: an older one is filled up with zeros; what a newer one has more must be
// zero, since it would be ignored.
template <class Struct>
Struct read_struct(const Struct* given, const char* name) {
    Struct result{};
    demand(given, name);
    if (given->size < sizeof(size_t) || given->size > 65536) refuse(say(name, ".size is ", given->size));
    const auto* bytes = reinterpret_cast<const char*>(given);
    std::memcpy(&result, bytes, std::min(given->size, sizeof result));
    for (size_t i = sizeof result; i < given->size; ++i)
        if (bytes[i]) refuse(say(name, " has fields that this version of the library does not know"));
    return result;
}

template <class Struct>
void write_struct(Struct* to, Struct result, const char* name) {
    demand(to, name);
    if (to->size < sizeof(size_t)) refuse(say(name, ".size is ", to->size));
    result.size = to->size;
    std::memcpy(static_cast<void*>(to), &result, std::min(to->size, sizeof result));
}

DeviceArrays read_device_arrays(const soda_request& request) {
    DeviceArrays arrays;
    if (request.num_device_arrays < 0) refuse(say("num_device_arrays is ", request.num_device_arrays));
    const auto* place = reinterpret_cast<const char*>(request.device_arrays);
    for (int32_t i = 0; i < request.num_device_arrays; ++i) {
        const auto array = read_struct(reinterpret_cast<const soda_device_array*>(place), "device_arrays");
        demand(array.name, "a name in device_arrays");
        const int64_t bytes = int64_t(std::min(array.bytes, size_t(INT64_MAX)));
        if (!arrays.emplace(array.name, DeviceArray{static_cast<const char*>(array.address), bytes}).second)
            refuse(say("device array ", shown(array.name), " is given twice"));
        place += array.size;
    }
    return arrays;
}

std::vector<LoraArgument> read_loras(const soda_open_options& options) {
    std::vector<LoraArgument> loras;
    if (options.num_loras < 0) refuse(say("num_loras is ", options.num_loras));
    const auto* place = reinterpret_cast<const char*>(options.loras);
    for (int32_t i = 0; i < options.num_loras; ++i) {
        const auto lora = read_struct(reinterpret_cast<const soda_lora*>(place), "loras");
        demand(lora.path, "a path in loras");
        loras.push_back({lora.path, lora.strength});
        place += lora.size;
    }
    return loras;
}

std::vector<soda_input> read_inputs(const soda_request& request) {
    std::vector<soda_input> inputs;
    if (request.num_inputs < 0) refuse(say("num_inputs is ", request.num_inputs));
    const auto* place = reinterpret_cast<const char*>(request.inputs);
    for (int32_t i = 0; i < request.num_inputs; ++i) {
        const auto input = read_struct(reinterpret_cast<const soda_input*>(place), "inputs");
        demand(input.name, "a name in inputs");
        if (!input.data) refuse(say("input ", shown(input.name), " has no address: it is NULL"));
        inputs.push_back(input);
        place += input.size;
    }
    return inputs;
}

void start_request(Session& session, const soda_request* given) {
    const soda_request request = read_struct(given, "request");
    session.start(request, {read_device_arrays(request), read_inputs(request)});
}

std::string text_of(const char* text) {
    return text ? text : "";
}

uint8_t as_byte(float value) {
    return value > 0 ? uint8_t(std::min(value, 1.0f) * 255.0f + 0.5f) : uint8_t(0);  // NaN gives 0
}

// read(): all or a part of the result
template <class T, class Read>
void copy_result(Read read, T* to) {
    demand(to, "the room for the result");
    const std::vector<float> values = read();
    if constexpr (std::is_same_v<T, float>)
        std::copy(values.begin(), values.end(), to);
    else
        std::transform(values.begin(), values.end(), to, as_byte);
}

}  // namespace
}  // namespace soda

using namespace soda;

uint32_t soda_abi_version(void) {
    return SODA_ABI_VERSION;
}

const char* soda_version(void) {
    return SODA_RUNTIME_VERSION;
}

const char* soda_last_error(void) {
    return last_error().c_str();
}

soda_status soda_bundle_open(const char* folder, const soda_open_options* options, soda_bundle** bundle) {
    if (bundle) *bundle = nullptr;
    return guarded([&] {
        demand(folder, "folder");
        demand(bundle, "bundle");
        const soda_open_options given = options ? read_struct(options, "options") : soda_open_options{};
        if (given.threads < 0 || given.threads > max_threads)
            refuse(say("options.threads is ", given.threads, "; 0 (the library chooses) to ", max_threads));
        const BackendOptions wanted{text_of(given.backend),
                                    text_of(given.device),
                                    text_of(given.backends_folder),
                                    text_of(given.engine_library),
                                    "",
                                    given.threads,
                                    given.cuda_stream};
        auto opened = std::make_shared<Bundle>(folder, wanted, read_loras(given));
        if (given.preload) opened->open_engines();
        *bundle = new soda_bundle{std::move(opened)};
    });
}

soda_status soda_bundle_size(const soda_bundle* bundle, int32_t index, int32_t* height, int32_t* width) {
    return guarded([&] {
        demand(bundle, "bundle");
        demand(height, "height");
        demand(width, "width");
        const auto& sizes = bundle->bundle->sizes();
        if (index < 0 || size_t(index) >= sizes.size()) refuse(say("size ", index, " of ", sizes.size()));
        *height = int32_t(sizes[size_t(index)].height);
        *width = int32_t(sizes[size_t(index)].width);
    });
}

soda_status soda_bundle_at(const soda_bundle* bundle, int32_t height, int32_t width, soda_bundle** sized) {
    if (sized) *sized = nullptr;
    return guarded([&] {
        demand(bundle, "bundle");
        demand(sized, "sized");
        *sized = new soda_bundle{bundle->bundle->at(height, width)};
    });
}

soda_status soda_bundle_set_lora_strengths(soda_bundle* bundle, const double* strengths, int32_t count) {
    return guarded([&] {
        demand(bundle, "bundle");
        if (count < 0) refuse(say("count is ", count));
        if (count) demand(strengths, "strengths");
        bundle->bundle->set_lora_strengths(std::vector<double>(strengths, strengths + count));
    });
}

void soda_bundle_close(soda_bundle* bundle) {
    if (bundle && bundle->bundle->is_here()) delete bundle;
}

soda_status soda_bundle_info(const soda_bundle* bundle, soda_info* info) {
    return guarded([&] {
        demand(bundle, "bundle");
        write_struct(info, describe_bundle(*bundle->bundle), "info");
    });
}

soda_status soda_bundle_port(const soda_bundle* bundle, int32_t direction, int32_t index, soda_port* port) {
    return guarded([&] {
        demand(bundle, "bundle");
        if (direction != SODA_INPUTS && direction != SODA_OUTPUTS) refuse(say("direction is ", direction));
        const Bundle& opened = *bundle->bundle;
        const auto ports = direction == SODA_INPUTS ? describe_inputs(opened.manifest()) : describe_outputs(opened);
        if (index < 0 || size_t(index) >= ports.size()) refuse(say("port ", index, " of ", ports.size()));
        write_struct(port, ports[size_t(index)], "port");
    });
}

soda_status soda_bundle_slot(const soda_bundle* bundle, int32_t index, soda_slot* slot) {
    return guarded([&] {
        demand(bundle, "bundle");
        const Manifest& m = bundle->bundle->manifest();
        if (index < 0 || size_t(index) >= m.slots.size()) refuse(say("slot ", index, " of ", m.slots.size()));
        write_struct(slot, describe_slot(m, size_t(index)), "slot");
    });
}

soda_status soda_bundle_step(const soda_bundle* bundle, int32_t index, soda_step_info* step) {
    return guarded([&] {
        demand(bundle, "bundle");
        const Manifest& m = bundle->bundle->manifest();
        if (index < 0 || index >= m.sampler.steps) refuse(say("step ", index, " of ", m.sampler.steps));
        const int64_t number = m.steps[size_t(index)].program;
        const Program& program = m.programs[size_t(number)];
        soda_step_info result{};
        result.file = program.file.c_str();
        result.program = int32_t(number);
        result.reads = int32_t(program.reads.size());
        result.writes = int32_t(program.writes.size());
        result.timestep = m.sampler.timesteps[size_t(index)];
        result.flops = program.flops;
        const std::vector<bool> cached = cached_steps(m, index);
        const bool starts = bundle->bundle->tables().count(start_levels_table) != 0;
        result.full_steps = starts ? int32_t(std::count(cached.begin() + index, cached.end(), false)) : -1;
        write_struct(step, result, "step");
    });
}

soda_status soda_session_open(soda_bundle* bundle, soda_session** session) {
    if (session) *session = nullptr;
    return guarded([&] {
        demand(bundle, "bundle");
        demand(session, "session");
        bundle->bundle->require_here();
        *session = new soda_session(bundle->bundle);
    });
}

void soda_session_close(soda_session* session) {
    if (!session || !session->session.bundle().is_here() || session->session.calls_back_here()) return;
    session->turn.wait_until_free();
    delete session;
}

soda_status soda_generate(soda_session* session, const soda_request* request, float* latents, size_t count) {
    return in_turn(session, [&](Session& player) {
        if (count) demand(latents, "latents");
        start_request(player, request);
        if (latents) player.demand_room(count);
        player.run_all();
        if (latents) player.latents(latents, count);
    });
}

soda_status soda_start(soda_session* session, const soda_request* request) {
    return in_turn(session, [&](Session& player) { start_request(player, request); });
}

soda_status soda_step(soda_session* session, int32_t index) {
    return in_turn(session, [&](Session& player) { player.step(index); });
}

soda_status soda_progress_of(const soda_session* session, int32_t* samples, int32_t* steps_done) {
    return looking(session, [&](const Session& player) {
        if (samples) *samples = int32_t(player.samples());
        if (steps_done) *steps_done = int32_t(player.steps_done());
    });
}

soda_status soda_latents(soda_session* session, float* latents, size_t count) {
    return looking(session, [&](Session& player) { player.latents(latents, count); });
}

soda_status soda_decisions(const soda_session* session, int64_t* decisions, size_t count) {
    return looking(session, [&](const Session& player) {
        demand(decisions, "decisions");
        const std::vector<int64_t> made = player.decisions();
        if (count < made.size()) refuse(say("room for ", count, " decisions, the steps so far have ", made.size()));
        std::copy(made.begin(), made.end(), decisions);
    });
}

soda_status soda_result(soda_session* session, float* result, size_t count) {
    return looking(session, [&](Session& player) { copy_result([&] { return player.result(count); }, result); });
}

soda_status soda_result_rgb(soda_session* session, uint8_t* result, size_t count) {
    return looking(session, [&](Session& player) { copy_result([&] { return player.pictures(count); }, result); });
}

soda_status soda_preview(soda_session* session, float* latents, size_t count) {
    return looking(session, [&](Session& player) { player.latents(latents, count, Of::preview); });
}

soda_status soda_preview_result(soda_session* session, float* result, size_t count) {
    return looking(session, [&](Session& player) {
        copy_result([&] { return player.result(count, Of::preview); }, result);
    });
}

soda_status soda_preview_result_rgb(soda_session* session, uint8_t* result, size_t count) {
    return looking(session, [&](Session& player) {
        copy_result([&] { return player.pictures(count, Of::preview); }, result);
    });
}

soda_status soda_result_chunk(soda_session* session, int32_t index, float* chunk, size_t count) {
    return in_turn(session,
                   [&](Session& player) { copy_result([&] { return player.chunk(index, count); }, chunk); });
}

soda_status soda_result_chunk_rgb(soda_session* session, int32_t index, uint8_t* chunk, size_t count) {
    return in_turn(session,
                   [&](Session& player) { copy_result([&] { return player.chunk(index, count); }, chunk); });
}

soda_status soda_images(soda_session* session, float* images, size_t count) {
    return in_turn(session, [&](Session& player) { copy_result([&] { return player.images(count); }, images); });
}

soda_status soda_images_rgb(soda_session* session, uint8_t* images, size_t count) {
    return in_turn(session, [&](Session& player) { copy_result([&] { return player.images(count); }, images); });
}

soda_status soda_to_device(soda_session* session, const char* output, void* address, size_t bytes) {
    return in_turn(session, [&](Session& player) {
        demand(output, "output");
        player.to_device(output, address, bytes);
    });
}

soda_status soda_truncated(const soda_session* session, int32_t index, soda_truncation* truncation) {
    return looking(session, [&](const Session& player) {
        const std::vector<Truncation>& cut = player.truncated();
        if (index < 0 || size_t(index) >= cut.size()) refuse(say("truncation ", index, " of ", cut.size()));
        const Truncation& each = cut[size_t(index)];
        soda_truncation result{};
        result.field = each.field.c_str();
        result.sample = int32_t(each.sample);
        result.max_tokens = int32_t(each.max_tokens);
        result.lost = each.lost.c_str();
        write_struct(truncation, result, "truncation");
    });
}

soda_status soda_reset(soda_session* session) {
    return in_turn(session, [](Session& player) { player.reset(); });
}

void soda_cancel(soda_session* session) {
    if (session) session->session.cancel();
}

soda_status soda_noise(uint64_t seed, uint32_t stream, uint32_t row, float* values, size_t count) {
    return guarded([&] {
        demand(values, "values");
        normal(seed, stream, row, values, count);
    });
}
