// Values of the floating types that weights have, by their names in safetensors files, as float32 and back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace soda {

// "F64", "F32", "F16" or "BF16".
bool is_float_dtype(const std::string& dtype);
// bytes: of whole values.
std::vector<float> widened(const std::string& dtype, const char* bytes, size_t size);
// Rounded to the nearest, ties to even; what is beyond the type's range becomes infinite.
std::string narrowed(const std::string& dtype, const std::vector<float>& values);

}  // namespace soda
