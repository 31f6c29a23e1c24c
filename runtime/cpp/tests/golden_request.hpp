// What the tests of the C ABI open and ask for.
#pragma once

#include <string>

#include "check.hpp"
#include "soda_runtime.hpp"

inline const std::string golden = SODA_GOLDEN;
inline std::string backend = "null";

inline soda::OpenOptions chosen() {
    soda::OpenOptions options;
    options.backend = backend;
    options.threads = 1;
    return options;
}

inline soda::Request request(uint64_t seed = 1) {
    return soda::Request().labels({3, 7}).seed(seed);
}

// Of a call that may throw; the message is the thread's last error.
template <class Body>
soda_status status_of(Body body) {
    try {
        body();
        return SODA_OK;
    } catch (const soda::RuntimeError& error) {
        CHECK(std::string(error.what()) == soda_last_error() && *soda_last_error());
        return error.status();
    }
}
