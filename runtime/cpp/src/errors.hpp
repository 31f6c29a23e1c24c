// Errors of the runtime: one class for each family of status codes, thrown inside and turned into a code at the C edge.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "soda_runtime.h"

namespace soda {

class Error : public std::runtime_error {
public:
    Error(soda_status status, const std::string& message) : std::runtime_error(message), status(status) {}
    const soda_status status;
};

struct BundleError : Error {
    explicit BundleError(const std::string& message, soda_status status = SODA_BUNDLE_ERROR) : Error(status, message) {}
};

struct EngineError : Error {
    explicit EngineError(const std::string& message, soda_status status = SODA_ENGINE_ERROR) : Error(status, message) {}
};

struct RequestError : Error {
    explicit RequestError(const std::string& message, soda_status status = SODA_REQUEST_ERROR)
        : Error(status, message) {}
};

struct Cancelled : Error {
    Cancelled() : Error(SODA_CANCELLED, "the request was cancelled; start another") {}
};

// A bug here, not something the user did.
struct InternalError : Error {
    explicit InternalError(const std::string& message) : Error(SODA_INTERNAL_ERROR, message) {}
};

// The parts of a message one after the other.
template <class... Parts>
std::string say(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
}

// Foreign text for a message: in quotes, cut after `limit` characters, whatever does not print escaped.
inline std::string shown(std::string_view text, size_t limit = 80) {
    static const char* digits = "0123456789abcdef";
    std::string result = "'";
    for (unsigned char c : text.substr(0, limit)) {
        if (c >= 0x20 && c < 0x7f && c != '\'' && c != '\\')
            result += static_cast<char>(c);
        else
            (((result += "\\x") += digits[c >> 4]) += digits[c & 15]);
    }
    return result + (text.size() > limit ? "'.." : "'");
}

}  // namespace soda
