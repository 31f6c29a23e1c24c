// Write a picture as PNG without any library: its pixels are stored, not compressed.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace png {

inline void append_number(std::string& to, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(value >> shift & 0xFF);
}

inline uint32_t crc_of(const std::string& bytes) {
    uint32_t crc = 0xFFFFFFFF;
    for (const char each : bytes) {
        crc ^= static_cast<unsigned char>(each);
        for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
    }
    return ~crc;
}

inline void append_chunk(std::string& to, const std::string& kind, const std::string& data) {
    append_number(to, static_cast<uint32_t>(data.size()));
    to += kind + data;
    append_number(to, crc_of(kind + data));
}

// A zlib stream of stored blocks.
inline std::string stored(const std::string& bytes) {
    std::string stream = "\x78\x01";
    uint32_t a = 1, b = 0;  // Adler-32
    for (const char each : bytes) a = (a + static_cast<unsigned char>(each)) % 65521, b = (b + a) % 65521;
    for (size_t at = 0; at < bytes.size() || at == 0; at += 65535) {
        const size_t size = std::min<size_t>(65535, bytes.size() - at);
        stream += static_cast<char>(at + size == bytes.size());
        for (const size_t part : {size, ~size}) stream += {static_cast<char>(part & 0xFF), static_cast<char>(part >> 8 & 0xFF)};
        stream += bytes.substr(at, size);
    }
    append_number(stream, b << 16 | a);
    return stream;
}

// pixels: [height, width, channels], 1 or 3 channels.
inline void write(const std::string& path, const uint8_t* pixels, const int64_t* shape) {
    if (shape[2] != 1 && shape[2] != 3) throw std::runtime_error("images of other than 1 or 3 channels");
    const size_t row = static_cast<size_t>(shape[1] * shape[2]);
    std::string rows, header, file = "\x89PNG\r\n\x1a\n";
    for (size_t y = 0; y < static_cast<size_t>(shape[0]); ++y) {
        rows += '\0';  // no filter
        rows.append(reinterpret_cast<const char*>(pixels) + y * row, row);
    }
    append_number(header, static_cast<uint32_t>(shape[1]));
    append_number(header, static_cast<uint32_t>(shape[0]));
    header += {8, static_cast<char>(shape[2] == 3 ? 2 : 0), 0, 0, 0};
    append_chunk(file, "IHDR", header);
    append_chunk(file, "IDAT", stored(rows));
    append_chunk(file, "IEND", "");
    std::ofstream out(path, std::ios::binary);
    if (!out.write(file.data(), static_cast<std::streamsize>(file.size())) || !out.flush())
        throw std::runtime_error(path + ": cannot be written");
}

}  // namespace png
