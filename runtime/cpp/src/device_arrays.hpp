// Arrays of a request that lie in memory of the bundle's CUDA device. Their values are the caller's affair.
#pragma once

#include <map>
#include <string>

#include "backend.hpp"
#include "soda_runtime.h"

namespace soda {

struct DeviceArray {
    const char* address;
    int64_t bytes;
};

using DeviceArrays = std::map<std::string, DeviceArray>;  // by the field of soda_request that they stand for

// Demand a device, inputs of the request that are not given twice, and addresses that lie there. Raises RequestError.
void judge_device_arrays(const DeviceArrays& arrays, const soda_request& request, const Backend& backend);
void judge_device_address(const std::string& name, const void* address, const Backend& backend);

// Rows of a request's input that come from the device.
struct DeviceRows {
    std::string input;
    int64_t first_row;
    const char* address;
    int64_t given, samples;  // rows there and rows wanted: one is repeated
    int64_t row_bytes;

    void write(Memory& to) const;  // in the order of the stream
};

}  // namespace soda
