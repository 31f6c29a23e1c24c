// The C edge of sessions: requests in, steps, results out.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "edge.hpp"
#include "soda_runtime.h"

namespace soda {
namespace {

DeviceArrays read_device_arrays(const soda_request& request) {
    DeviceArrays arrays;
    const auto take = [&](const soda_device_array& array) {
        demand(array.name, "a name in device_arrays");
        const int64_t bytes = int64_t(std::min(array.bytes, size_t(INT64_MAX)));
        if (!arrays.emplace(array.name, DeviceArray{static_cast<const char*>(array.address), bytes}).second)
            refuse(say("device array ", shown(array.name), " is given twice"));
    };
    read_structs(request.device_arrays, request.num_device_arrays, "device_arrays", take);
    return arrays;
}

std::vector<soda_input> read_inputs(const soda_request& request) {
    std::vector<soda_input> inputs;
    read_structs(request.inputs, request.num_inputs, "inputs", [&](const soda_input& input) {
        demand(input.name, "a name in inputs");
        if (!input.data) refuse(say("input ", shown(input.name), " has no address: it is NULL"));
        inputs.push_back(input);
    });
    return inputs;
}

void start_request(Session& session, const soda_request* given) {
    const soda_request request = read_struct(given, "request");
    session.start(request, {read_device_arrays(request), read_inputs(request)});
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
