#include "floats.hpp"

#include <cmath>
#include <cstring>

#include "errors.hpp"

namespace soda {
namespace {

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

float widen_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    if (exponent == 31) return from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), from_bits(sign));
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t narrow_half(float value) {
    const uint16_t sign = uint16_t(bits_of(value) >> 16 & 0x8000u);
    const float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00u;
    if (size >= 65520.0f) return sign | 0x7c00u;  // halfway between the greatest half and the next power
    if (size < 6.103515625e-05f) return sign | uint16_t(std::nearbyint(size * 16777216.0f));  // below 2^-14
    const uint32_t bits = bits_of(size), rounded = bits + 0xfffu + (bits >> 13 & 1u);
    return sign | uint16_t((rounded >> 13) - (112u << 10));
}

uint16_t narrow_bfloat(float value) {
    const uint32_t bits = bits_of(value);
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <class Stored, class Convert>
std::vector<float> converted(const char* bytes, size_t size, Convert convert) {
    std::vector<float> values(size / sizeof(Stored));
    for (size_t i = 0; i < values.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, bytes + i * sizeof stored, sizeof stored);
        values[i] = convert(stored);
    }
    return values;
}

}  // namespace

bool is_float_dtype(const std::string& dtype) {
    return dtype == "F64" || dtype == "F32" || dtype == "F16" || dtype == "BF16";
}

std::vector<float> widened(const std::string& dtype, const char* bytes, size_t size) {
    if (dtype == "F64") return converted<double>(bytes, size, [](double value) { return float(value); });
    if (dtype == "F32") return converted<float>(bytes, size, [](float value) { return value; });
    if (dtype == "F16") return converted<uint16_t>(bytes, size, widen_half);
    if (dtype == "BF16")
        return converted<uint16_t>(bytes, size, [](uint16_t value) { return from_bits(uint32_t(value) << 16); });
    throw InternalError("values of type " + dtype + " are no floats");
}

std::string narrowed(const std::string& dtype, const std::vector<float>& values) {
    const size_t item = dtype == "F32" ? 4 : dtype == "F64" ? 8 : 2;
    std::string bytes(values.size() * item, '\0');
    for (size_t i = 0; i < values.size(); ++i) {
        char* const place = bytes.data() + i * item;
        const double wide = values[i];
        const uint16_t half = dtype == "F16" ? narrow_half(values[i]) : narrow_bfloat(values[i]);
        if (item == 8)
            std::memcpy(place, &wide, item);
        else if (item == 4)
            std::memcpy(place, &values[i], item);
        else
            std::memcpy(place, &half, item);
    }
    return bytes;
}

}  // namespace soda
