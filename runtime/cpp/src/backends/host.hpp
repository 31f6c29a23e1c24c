// Host memory and sizes of views, for backends whose engines run on the CPU.
#pragma once

#include <cstdlib>
#include <cstring>

#include "entry.hpp"

namespace soda {

inline int64_t view_bytes(const SodaView& view) {
    int64_t bytes = view.dtype == SODA_INT64 ? 8 : view.dtype == SODA_FLOAT32 ? 4 : 2;
    for (int32_t i = 0; i < view.rank; ++i) bytes *= view.dims[i];
    return bytes;
}

// A zeroed block aligned to 256 bytes; pages that nobody touches take no memory.
class HostMemory {
public:
    explicit HostMemory(int64_t bytes) : bytes_(bytes) {
        constexpr int64_t alignment = 256;
        block_ = bytes >= 0 && bytes <= INT64_MAX - alignment ? std::calloc(size_t(bytes + alignment), 1) : nullptr;
        if (!block_)
            throw EngineError(say(bytes, " bytes of host memory cannot be had; use a smaller batch"),
                              SODA_ENGINE_MEMORY);
        data_ = static_cast<char*>(block_) + (alignment - reinterpret_cast<uintptr_t>(block_) % alignment) % alignment;
    }
    ~HostMemory() { std::free(block_); }
    HostMemory(const HostMemory&) = delete;
    HostMemory& operator=(const HostMemory&) = delete;

    void write(int64_t offset, const void* from, int64_t bytes) { std::memcpy(at(offset, bytes), from, size_t(bytes)); }
    void read(int64_t offset, void* to, int64_t bytes) const { std::memcpy(to, at(offset, bytes), size_t(bytes)); }

    char* at(int64_t offset, int64_t bytes) const {
        if (offset < 0 || bytes < 0 || offset > bytes_ - bytes)
            throw InternalError(say(bytes, " bytes at ", offset, " leave a memory of ", bytes_));
        return data_ + offset;
    }

private:
    void* block_ = nullptr;
    char* data_ = nullptr;
    int64_t bytes_;
};

inline char* place_of(const SodaView& view) {
    return static_cast<HostMemory*>(view.memory)->at(view.offset, view_bytes(view));
}

// Compares what a program has with what the manifest says. found: name -> dtype (-1: none of ours) and dims.
struct FoundPort {
    int32_t dtype;
    std::vector<int64_t> dims;  // below 0: any size
    std::string text;           // as the library spells it, for messages
};

template <class Found>
void check_ports(const char* path, const char* kind, const Found& found, const SodaPort* expected, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        const SodaPort& port = expected[i];
        const auto here = found.find(port.name);
        if (here == found.end())
            throw EngineError(say(path, ": ", kind, " '", port.name, "' is not in the engine; rebuild the bundle"));
        bool same = here->second.dtype == port.dtype && here->second.dims.size() == size_t(port.rank);
        for (int32_t axis = 0; same && axis < port.rank; ++axis)
            same = port.dims[axis] < 0 || here->second.dims[size_t(axis)] == port.dims[axis];
        if (!same)
            throw EngineError(say(path, ": ", kind, " '", port.name, "' is ", here->second.text,
                                  ", which is not what the manifest says; rebuild the bundle"));
    }
    if (found.size() == size_t(count)) return;
    for (const auto& [name, port] : found) {
        bool known = false;
        for (int32_t i = 0; i < count; ++i) known = known || name == expected[i].name;
        if (!known)
            throw EngineError(say(path, ": ", kind, " ", shown(name), " is not in the manifest; rebuild the bundle"));
    }
}

}  // namespace soda
