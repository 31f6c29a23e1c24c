#include "device_arrays.hpp"

#include <optional>

#include "errors.hpp"

namespace soda {
namespace {

// The request's own field of that name, where it has one.
std::optional<const void*> field_of(const soda_request& request, const std::string& name) {
    const std::pair<const char*, const void*> fields[] = {
        {"labels", request.labels},
        {"embeds", request.embeds},
        {"negative_embeds", request.negative_embeds},
        {"token_ids", request.token_ids},
        {"negative_token_ids", request.negative_token_ids},
        {"token_mask", request.token_mask},
        {"negative_token_mask", request.negative_token_mask},
        {"noise_initial", request.noise_initial},
        {"noise_steps", request.noise_steps},
    };
    for (const auto& [field, address] : fields)
        if (name == field) return address;
    return {};
}

[[noreturn]] void refuse(const std::string& name, const char* what) {
    throw RequestError(say("device array ", shown(name), " ", what), SODA_REQUEST_ARGUMENT);
}

}  // namespace

void judge_device_arrays(const DeviceArrays& arrays, const soda_request& request, const Backend& backend) {
    for (const auto& [name, array] : arrays) {
        const auto field = field_of(request, name);
        if (!field) refuse(name, "is no input of a request; soda_bundle_port lists them");
        if (*field) refuse(name, "is given on the host, too; leave the field NULL");
        judge_device_address(name, array.address, backend);
    }
}

void judge_device_address(const std::string& name, const void* address, const Backend& backend) {
    if (!address) refuse(name, "has no address: it is NULL");
    if (!backend.stream())
        refuse(name, "is for a bundle on a CUDA device; this one is on the CPU, give it on the host");
    backend.judge_address(say("device array ", shown(name)), address);
}

void DeviceRows::write(Memory& to) const {
    if (given == samples) return to.copy_from(address, samples * row_bytes, first_row * row_bytes);
    for (int64_t i = 0; i < samples; ++i) to.copy_from(address, row_bytes, (first_row + i) * row_bytes);
}

}  // namespace soda
