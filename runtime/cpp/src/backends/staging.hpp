// Pinned host memory that passes a caller's bytes to a stream, used round and round. Without it the driver may wait for
// the stream before it takes bytes from ordinary memory.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "cuda_api.hpp"

namespace soda {

class Staging {
public:
    explicit Staging(const CudaApi& api) : api_(api) {}
    ~Staging();  // after the stream's work
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;

    // Room for so many bytes on their way at once; where it grows, and only there, it waits for what is.
    void reserve(int64_t bytes);
    // Put a copy to the device into the stream; `from` may change afterwards. Waits only for room. False: never room.
    bool write(char* to, const void* from, int64_t bytes, void* stream);

private:
    struct Piece {
        int64_t begin, bytes;  // begin counts on from round to round
        void* event;           // when it has been copied
    };

    void retire(bool wait_for_it);
    void* take_event();

    const CudaApi& api_;
    std::mutex lock_;
    char* block_ = nullptr;
    int64_t capacity_ = 0, next_ = 0;
    std::deque<Piece> on_their_way_;
    std::vector<void*> events_;  // not in use
};

}  // namespace soda
