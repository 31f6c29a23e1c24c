#include "backend.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "errors.hpp"

namespace soda {
namespace {

void raise(int32_t status, const SodaMessage& message) {
    switch (SODA_FAMILY(status)) {
        case SODA_OK:
            return;
        case SODA_BUNDLE_ERROR:
            throw BundleError(message.text, status);
        case SODA_ENGINE_ERROR:
            throw EngineError(message.text, status);
        case SODA_REQUEST_ERROR:
            throw RequestError(message.text, status);
        default:
            throw InternalError(message.text);
    }
}

// Calls one function of the table; a failure becomes its exception.
template <class Function, class... Arguments>
void demand(Function function, Arguments... arguments) {
    SodaMessage message;
    message.text[0] = '\0';
    raise(function(arguments..., &message), message);
}

template <class To>
void copy_shape(const Sizes& shape, To& to) {
    if (shape.size() > SODA_MAX_AXES)
        throw InternalError(say("a tensor ", shown(to.name), " of ", shape.size(), " axes"));
    to.rank = int32_t(shape.size());
    for (size_t i = 0; i < SODA_MAX_AXES; ++i) to.dims[i] = i < shape.size() ? std::max<int64_t>(shape[i], -1) : 0;
}

std::vector<SodaPort> ports_of(const Ports& ports) {
    std::vector<SodaPort> list;
    for (const auto& [name, port] : ports) {
        SodaPort& each = list.emplace_back();
        each.name = name.c_str();
        each.dtype = int32_t(port.dtype);
        copy_shape(port.shape, each);
        each.slot = port.slot.empty() ? nullptr : port.slot.c_str();
        each.age = int32_t(port.age);
    }
    return list;
}

std::vector<SodaView> views_of(const Views& views) {
    std::vector<SodaView> list;
    for (const auto& [name, view] : views) {
        SodaView& each = list.emplace_back();
        each.name = name.c_str();
        each.memory = view.memory->handle();
        each.offset = view.offset;
        each.dtype = int32_t(view.dtype);
        copy_shape(view.shape, each);
    }
    return list;
}

std::vector<SodaWeight> weights_of(const std::map<std::string, const HostTensor*>& tensors) {
    std::vector<SodaWeight> list;
    for (const auto& [name, tensor] : tensors) {
        SodaWeight& each = list.emplace_back();
        each.name = name.c_str();
        each.dtype = tensor->dtype.c_str();
        copy_shape(tensor->shape, each);
        each.data = tensor->content.data();
        each.bytes = int64_t(tensor->content.size());
    }
    return list;
}

// The folder of the library that this code is in.
std::string own_folder() {
    Dl_info info;
    if (!::dladdr(reinterpret_cast<void*>(&own_folder), &info) || !info.dli_fname) return ".";
    const std::string path = info.dli_fname;
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string backends_folder(const std::string& wanted) {
    if (!wanted.empty()) return wanted;
    const char* variable = std::getenv("SODA_RUNTIME_BACKENDS");
    return variable && *variable ? variable : own_folder();
}

bool is_plain(const std::string& name) {
    return !name.empty() && name.size() <= 32 &&
           std::all_of(name.begin(), name.end(), [](unsigned char c) { return c == '_' || (c >= 'a' && c <= 'z'); });
}

}  // namespace

Memory::Memory(const SodaBackendTable& table, void* backend, int64_t bytes) : table_(table), bytes_(bytes) {
    demand(table.allocate, backend, bytes, &handle_);
}

Memory::~Memory() {
    table_.release(handle_);
}

void Memory::write(const void* from, int64_t bytes, int64_t offset) {
    demand(table_.write, handle_, offset, from, bytes);
}

void Memory::read(void* to, int64_t bytes, int64_t offset) const {
    demand(table_.read, handle_, offset, to, bytes);
}

void Memory::copy_from(const void* address, int64_t bytes, int64_t offset) {
    demand(table_.device.copy_from, handle_, offset, address, bytes);
}

void Memory::copy_to(void* address, int64_t bytes, int64_t offset) const {
    demand(table_.device.copy_to, handle_, offset, address, bytes);
}

Call::~Call() {
    if (handle_) table_->unbind(handle_);
}

void Call::operator()() const {
    demand(table_->run, handle_);
}

Engine::~Engine() {
    table_.close_engine(handle_);
}

Call Engine::bind(const std::string& label, const Views& inputs, const Views& outputs) const {
    const auto from = views_of(inputs), to = views_of(outputs);
    void* call = nullptr;
    demand(table_.bind, handle_, label.c_str(), from.data(), int32_t(from.size()), to.data(), int32_t(to.size()),
           &call);
    return Call(table_, call, shared_from_this());
}

Backend::Backend(const SodaBackendTable& table, const BackendOptions& options) : table_(table), name_(options.name) {
    const SodaBackendOptions given{options.device.c_str(), options.engine_library.c_str(), options.precision.c_str(),
                                   options.threads, options.stream};
    demand(table.open, &given, &handle_);
}

Backend::~Backend() {
    table_.close(handle_);
}

std::unique_ptr<Memory> Backend::allocate(int64_t bytes) const {
    return std::make_unique<Memory>(table_, handle_, bytes);
}

void* Backend::stream() const {
    return table_.device.stream ? table_.device.stream(handle_) : nullptr;
}

void Backend::judge_address(const std::string& name, const void* address) const {
    demand(table_.device.judge, handle_, name.c_str(), address);
}

void Backend::reserve_writes(int64_t bytes) const {
    if (stream()) demand(table_.device.reserve_writes, handle_, bytes);
}

std::shared_ptr<const Engine> Backend::open_engine(const std::string& path, const Signature& signature, bool once,
                                                   const std::string& weights, const SharedReplaced& replaced) const {
    const auto inputs = ports_of(signature.inputs), outputs = ports_of(signature.outputs);
    const auto tensors = replaced->of_program(weights);
    const auto others = weights_of(tensors);
    const SodaProgram program{path.c_str(),
                              inputs.data(),
                              outputs.data(),
                              int32_t(inputs.size()),
                              int32_t(outputs.size()),
                              once,
                              others.data(),
                              int32_t(others.size()),
                              others.empty() ? 0 : replaced->version};
    void* engine = nullptr;
    demand(table_.open_engine, handle_, &program, &engine);
    return std::make_shared<const Engine>(table_, engine, replaced);
}

void Backend::judge_replaced(const std::string& folder) const {
    demand(table_.judge_replaced, handle_, folder.c_str());
}

std::unique_ptr<Backend> open_backend(const BackendOptions& options) {
    if (!is_plain(options.name))
        throw EngineError(say("backend ", shown(options.name), " is unknown to this runtime"), SODA_ENGINE_MISSING);
    const std::string path = say(backends_folder(options.folder), "/libsoda_runtime_", options.name, ".so");
    if (::access(path.c_str(), F_OK) != 0)
        throw EngineError(say("backend '", options.name, "': ", path, " is not there; build it, or name its folder in ",
                              "backends_folder or SODA_RUNTIME_BACKENDS"),
                          SODA_ENGINE_MISSING);
    // Never unloaded: engine libraries leave threads behind.
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library)
        throw EngineError(say("backend '", options.name, "': ", ::dlerror(), "; install the engine library"),
                          SODA_ENGINE_MISSING);
    const auto entry = reinterpret_cast<SodaBackendEntry>(::dlsym(library, SODA_BACKEND_ENTRY));
    const SodaBackendTable* table = entry ? entry() : nullptr;
    ::dlclose(library);
    if (!table || table->abi != SODA_BACKEND_ABI)
        throw EngineError(say(path, ": not a backend of this version of the library; build both again"),
                          SODA_ENGINE_MISSING);
    return std::make_unique<Backend>(*table, options);
}

}  // namespace soda
