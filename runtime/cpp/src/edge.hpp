// What every function of the C edge stands on: handles in, status codes out. Every exception ends here as a status and
// the thread's last error.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "errors.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "soda_runtime.h"

struct soda_bundle {
    std::shared_ptr<soda::Bundle> bundle;
};

struct soda_session {
    soda::Session session;
    mutable soda::Turn turn;

    explicit soda_session(std::shared_ptr<soda::Bundle> bundle) : session(std::move(bundle)) {}
};

namespace soda {

// Sets the thread's last error.
soda_status fail(soda_status status, const char* message) noexcept;

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

[[noreturn]] inline void refuse(const std::string& message) {
    throw RequestError(message, SODA_REQUEST_ARGUMENT);
}

inline void demand(const void* pointer, const char* name) {
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

// body(each) for a caller's `count` structs, which lie as far apart as they say that they are large.
template <class Struct, class Body>
void read_structs(const Struct* first, int32_t count, const char* name, Body body) {
    if (count < 0) refuse(say("num_", name, " is ", count));
    const auto* place = reinterpret_cast<const char*>(first);
    for (int32_t i = 0; i < count; ++i) {
        const Struct each = read_struct(reinterpret_cast<const Struct*>(place), name);
        body(each);
        place += each.size;
    }
}

template <class Struct>
void write_struct(Struct* to, Struct result, const char* name) {
    demand(to, name);
    if (to->size < sizeof(size_t)) refuse(say(name, ".size is ", to->size));
    result.size = to->size;
    std::memcpy(static_cast<void*>(to), &result, std::min(to->size, sizeof result));
}

}  // namespace soda
