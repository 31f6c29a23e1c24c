#include "staging.hpp"

#include <algorithm>
#include <cstring>

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;
constexpr int64_t least_bytes = 1 << 20, most_bytes = 256 << 20;
constexpr unsigned no_timing = 2;  // cudaEventDisableTiming
constexpr int host_to_device = 1;  // cudaMemcpyHostToDevice

}  // namespace

Staging::~Staging() {
    for (const Piece& piece : on_their_way_) api_.cudaEventDestroy(piece.event);
    for (void* event : events_) api_.cudaEventDestroy(event);
    if (block_) api_.cudaFreeHost(block_);
}

void Staging::reserve(int64_t bytes) {
    const std::lock_guard<std::mutex> guard(lock_);
    const int64_t wanted = std::clamp(bytes, least_bytes, most_bytes);
    if (wanted <= capacity_) return;
    while (!on_their_way_.empty()) retire(true);
    if (block_) api_.cudaFreeHost(block_);
    block_ = nullptr;
    capacity_ = next_ = 0;
    void* block = nullptr;
    if (api_.cudaHostAlloc(&block, size_t(wanted), 0)) {
        api_.cudaGetLastError();  // without pinned memory copies only take longer
        return;
    }
    block_ = static_cast<char*>(block);
    capacity_ = wanted;
}

bool Staging::write(char* to, const void* from, int64_t bytes, void* stream) {
    const std::lock_guard<std::mutex> guard(lock_);
    const int64_t room = (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
    if (!block_ || room > capacity_) return false;
    if (next_ % capacity_ + room > capacity_) next_ += capacity_ - next_ % capacity_;  // does not fit before the end
    while (!on_their_way_.empty() && api_.cudaEventQuery(on_their_way_.front().event) == 0) retire(false);
    api_.cudaGetLastError();  // that an event is not ready yet is no error of the engine library's
    while (!on_their_way_.empty() && next_ + room - on_their_way_.front().begin > capacity_) retire(true);
    char* place = block_ + next_ % capacity_;
    std::memcpy(place, from, size_t(bytes));
    void* event = take_event();
    on_their_way_.push_back({next_, room, event});
    next_ += room;
    api_.check(api_.cudaMemcpyAsync(to, place, size_t(bytes), host_to_device, stream), "copying to the device");
    api_.check(api_.cudaEventRecord(event, stream), "marking the stream");
    return true;
}

// The oldest piece has been copied, or is waited for.
void Staging::retire(bool wait_for_it) {
    void* event = on_their_way_.front().event;
    if (wait_for_it) api_.check(api_.cudaEventSynchronize(event), "waiting for the device");
    events_.push_back(event);
    on_their_way_.pop_front();
}

void* Staging::take_event() {
    void* event = nullptr;
    if (events_.empty()) {
        api_.check(api_.cudaEventCreateWithFlags(&event, no_timing), "making an event");
        return event;
    }
    event = events_.back();
    events_.pop_back();
    return event;
}

}  // namespace soda
