// Who may use what has been opened: the process that opened it, and of a session one caller at a time.
//
// A fork has the parent's memory and none of its threads, which engine libraries wait for: a call may hang there, and
// so may freeing. So in a fork everything that was opened before refuses to be used and is never freed.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "errors.hpp"

namespace soda {

// Belongs to the process that made it.
class OpenedHere {
public:
    bool is_here() const { return ::getpid() == process_; }
    void require_here() const {
        if (!is_here())
            throw EngineError(say("opened in process ", process_, ", used in its fork ", ::getpid(),
                                  ", which has none of the engine library's threads; open the bundle after the fork"));
    }

private:
    const pid_t process_ = ::getpid();
};

// One caller at a time: whoever comes meanwhile is refused.
class Turn {
public:
    // Has the turn while it lives. RequestError where another one has.
    class Taken {
    public:
        explicit Taken(Turn& turn) : turn_(turn) {
            const std::lock_guard<std::mutex> guard(turn.lock_);
            if (turn.taken_)
                throw RequestError(
                    "the session is busy: another call plays it still; wait for that, or give each thread its own "
                    "session");
            turn.taken_ = true;
        }
        ~Taken() {
            const std::lock_guard<std::mutex> guard(turn_.lock_);
            turn_.taken_ = false;
            turn_.free_.notify_all();
        }
        Taken(const Taken&) = delete;
        Taken& operator=(const Taken&) = delete;

    private:
        Turn& turn_;
    };

    void wait_until_free() {
        std::unique_lock<std::mutex> guard(lock_);
        free_.wait(guard, [this] { return !taken_; });
    }

private:
    std::mutex lock_;
    std::condition_variable free_;
    bool taken_ = false;
};

}  // namespace soda
