// Turns C++ classes into a backend's table of functions: exceptions become a status and a line of text.
//
// A backend is a class with `explicit B(const SodaBackendOptions&)` and
//     std::unique_ptr<B::Memory> allocate(int64_t bytes)
//     std::unique_ptr<B::Engine> open_engine(const SodaProgram&)
// B::Memory has write(offset, from, bytes) and read(offset, to, bytes); B::Engine has
//     std::unique_ptr<B::Call> bind(label, inputs, outputs)
// and B::Call has run(). Where memory can lie on a CUDA device, B has stream(), judge(name, address) and
// reserve_writes(bytes), and B::Memory has copy_from(offset, address, bytes) and copy_to(offset, address, bytes). Where
// not every bundle's engines take other weights, B has judge_replaced(folder).
#pragma once

#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../backend_abi.h"
#include "../errors.hpp"

namespace soda {

using ViewList = std::vector<SodaView>;

// Runs `body`; whatever it throws becomes a status.
template <class Body>
int32_t guarded(SodaMessage* message, Body body) noexcept {
    const auto fail = [&](soda_status status, const char* text) {
        std::snprintf(message->text, sizeof message->text, "%s", text);
        for (char* c = message->text; *c; ++c)
            if (static_cast<unsigned char>(*c) < 0x20) *c = ' ';
        return status;
    };
    try {
        body();
        return SODA_OK;
    } catch (const Error& error) {
        return fail(error.status, error.what());
    } catch (const std::bad_alloc&) {
        return fail(SODA_ENGINE_MEMORY, "out of memory; use a smaller batch");
    } catch (const std::exception& error) {
        return fail(SODA_ENGINE_ERROR, error.what());
    } catch (...) {
        return fail(SODA_INTERNAL_ERROR, "an unknown exception in a backend");
    }
}

template <class B, class = void>
constexpr bool has_stream = false;
template <class B>
constexpr bool has_stream<B, std::void_t<decltype(std::declval<B>().stream())>> = true;

template <class B, class = void>
constexpr bool has_fixed_weights = false;
template <class B>
constexpr bool has_fixed_weights<B, std::void_t<decltype(std::declval<B>().judge_replaced(""))>> = true;

template <class B>
SodaDeviceTable device_table() {
    if constexpr (has_stream<B>) {
        using M = typename B::Memory;
        return {
            [](void* backend) { return static_cast<B*>(backend)->stream(); },
            [](void* backend, const char* name, const void* address, SodaMessage* message) {
                return guarded(message, [&] { static_cast<B*>(backend)->judge(name, address); });
            },
            [](void* backend, int64_t bytes, SodaMessage* message) {
                return guarded(message, [&] { static_cast<B*>(backend)->reserve_writes(bytes); });
            },
            [](void* memory, int64_t offset, const void* address, int64_t bytes, SodaMessage* message) {
                return guarded(message, [&] { static_cast<M*>(memory)->copy_from(offset, address, bytes); });
            },
            [](void* memory, int64_t offset, void* address, int64_t bytes, SodaMessage* message) {
                return guarded(message, [&] { static_cast<M*>(memory)->copy_to(offset, address, bytes); });
            },
        };
    } else {
        return {};
    }
}

template <class B>
const SodaBackendTable* backend_table() {
    using M = typename B::Memory;
    using E = typename B::Engine;
    using C = typename B::Call;
    static const SodaBackendTable table = {
        SODA_BACKEND_ABI,
        [](const SodaBackendOptions* options, void** backend, SodaMessage* message) {
            return guarded(message, [&] { *backend = new B(*options); });
        },
        [](void* backend) { delete static_cast<B*>(backend); },
        [](void* backend, int64_t bytes, void** memory, SodaMessage* message) {
            return guarded(message, [&] { *memory = static_cast<B*>(backend)->allocate(bytes).release(); });
        },
        [](void* memory) { delete static_cast<M*>(memory); },
        [](void* memory, int64_t offset, const void* from, int64_t bytes, SodaMessage* message) {
            return guarded(message, [&] { static_cast<M*>(memory)->write(offset, from, bytes); });
        },
        [](void* memory, int64_t offset, void* to, int64_t bytes, SodaMessage* message) {
            return guarded(message, [&] { static_cast<M*>(memory)->read(offset, to, bytes); });
        },
        [](void* backend, const SodaProgram* program, void** engine, SodaMessage* message) {
            return guarded(message, [&] { *engine = static_cast<B*>(backend)->open_engine(*program).release(); });
        },
        [](void* engine) { delete static_cast<E*>(engine); },
        [](void* backend, const char* folder, SodaMessage* message) {
            return guarded(message, [&] {
                if constexpr (has_fixed_weights<B>) static_cast<B*>(backend)->judge_replaced(folder);
            });
        },
        [](void* engine, const char* label, const SodaView* inputs, int32_t num_inputs, const SodaView* outputs,
           int32_t num_outputs, void** call, SodaMessage* message) {
            return guarded(message, [&] {
                *call =
                    static_cast<E*>(engine)
                        ->bind(label, ViewList(inputs, inputs + num_inputs), ViewList(outputs, outputs + num_outputs))
                        .release();
            });
        },
        [](void* call, SodaMessage* message) { return guarded(message, [&] { static_cast<C*>(call)->run(); }); },
        [](void* call) { delete static_cast<C*>(call); },
        device_table<B>(),
    };
    return &table;
}

}  // namespace soda

#define SODA_BACKEND(type)                                                                           \
    extern "C" __attribute__((visibility("default"))) const SodaBackendTable* soda_backend_table() { \
        return soda::backend_table<type>();                                                          \
    }
