// Engine libraries as the runtime uses them: a backend owns memory and opens engines; an engine binds addresses once
// and is then called with no arguments. Handles close themselves, calls before engines before the backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend_abi.h"
#include "replaced.hpp"
#include "signature.hpp"

namespace soda {

class Memory {
public:
    Memory(const SodaBackendTable& table, void* backend, int64_t bytes);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    void write(const void* from, int64_t bytes, int64_t offset = 0);
    void read(void* to, int64_t bytes, int64_t offset = 0) const;
    // The same with addresses on the backend's device, in the order of its stream.
    void copy_from(const void* address, int64_t bytes, int64_t offset = 0);
    void copy_to(void* address, int64_t bytes, int64_t offset = 0) const;
    void* handle() const { return handle_; }
    int64_t bytes() const { return bytes_; }

private:
    const SodaBackendTable& table_;
    void* handle_ = nullptr;
    int64_t bytes_;
};

// A tensor inside a memory: offset in bytes.
struct View {
    const Memory* memory;
    int64_t offset;
    Dtype dtype;
    Sizes shape;
};

using Views = std::map<std::string, View>;

class Engine;

class Call {
public:
    // engine: kept until the call is closed.
    Call(const SodaBackendTable& table, void* handle, std::shared_ptr<const Engine> engine)
        : table_(&table), handle_(handle), engine_(std::move(engine)) {}
    ~Call();
    Call(Call&& other) noexcept : table_(other.table_), handle_(other.handle_), engine_(std::move(other.engine_)) {
        other.handle_ = nullptr;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void operator()() const;

private:
    const SodaBackendTable* table_;
    void* handle_;
    std::shared_ptr<const Engine> engine_;
};

class Engine : public std::enable_shared_from_this<Engine> {
public:
    // replaced: what it took weights from.
    Engine(const SodaBackendTable& table, void* handle, SharedReplaced replaced)
        : table_(table), handle_(handle), replaced_(std::move(replaced)) {}
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    Call bind(const std::string& label, const Views& inputs, const Views& outputs) const;

private:
    const SodaBackendTable& table_;
    void* handle_;
    SharedReplaced replaced_;
};

struct BackendOptions {
    std::string name, device, folder, engine_library, precision;
    int threads = 0;
    void* stream = nullptr;
};

class Backend {
public:
    Backend(const SodaBackendTable& table, const BackendOptions& options);
    ~Backend();
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    std::unique_ptr<Memory> allocate(int64_t bytes) const;
    // weights: name of the program's weights file, "" where none is stated.
    std::shared_ptr<const Engine> open_engine(const std::string& path, const Signature& signature, bool once,
                                              const std::string& weights, const SharedReplaced& replaced) const;
    void judge_replaced(const std::string& folder) const;  // EngineError where its engines take no other weights
    const std::string& name() const { return name_; }
    void* stream() const;  // of a CUDA device; null: memory is the host's
    // RequestError unless `address` is memory of the device; `name` begins the message.
    void judge_address(const std::string& name, const void* address) const;
    void reserve_writes(int64_t bytes) const;  // that are on their way to the device at once

private:
    const SodaBackendTable& table_;
    std::string name_;
    void* handle_ = nullptr;
};

// Load libsoda_runtime_<name>.so and start it. EngineError (SODA_ENGINE_MISSING) where there is none.
std::unique_ptr<Backend> open_backend(const BackendOptions& options);

}  // namespace soda
