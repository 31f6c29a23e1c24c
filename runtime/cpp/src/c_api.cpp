// The C edge: versions, the thread's last error, noise. c_bundle.cpp and c_session.cpp have the rest.
#include <string>

#include "edge.hpp"
#include "philox.hpp"
#include "printable.hpp"
#include "soda_runtime.h"

#ifndef SODA_RUNTIME_VERSION
#define SODA_RUNTIME_VERSION "unknown"
#endif

namespace soda {
namespace {

std::string& last_error() {
    static thread_local std::string message;
    return message;
}

}  // namespace

// A path, or what an engine library says of a graph, may have any bytes; the message is one line of UTF-8.
soda_status fail(soda_status status, const char* message) noexcept {
    try {
        last_error() = printable(message);
    } catch (...) {
        return SODA_ENGINE_MEMORY;
    }
    return status;
}

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

soda_status soda_noise(uint64_t seed, uint32_t stream, uint32_t row, float* values, size_t count) {
    return guarded([&] {
        demand(values, "values");
        normal(seed, stream, row, values, count);
    });
}
