// ONNX Runtime on the CPU or a CUDA device. Every address is bound once through an IoBinding; weights are shared by all
// sessions.
#include <malloc.h>

#include "ort_device.hpp"
#include "ort_ports.hpp"
#include "ort_weights.hpp"

namespace soda {
namespace {

// What sessions, engines and calls share; they keep it alive.
struct OrtLibrary {
    const OrtApi& ort;
    OrtHandle<OrtEnv> environment;
    OrtDevice device;
    SharedWeights weights;
    int32_t threads;
    std::mutex running;  // held while a session puts its work into the device's stream

    explicit OrtLibrary(const SodaBackendOptions& options)
        : ort(load_ort(options.engine_library)),
          environment(nullptr, ort.ReleaseEnv),
          device(ort, options),
          weights(ort, device),
          threads(options.threads) {
        OrtEnv* env = nullptr;
        check_ort(ort, ort.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "soda_runtime", &env), "ONNX Runtime");
        environment.reset(env);
        if (!device.cuda()) share_arena();
    }

private:
    // One arena of activations for all sessions: engines run one after another. It belongs to the environment, which is
    // one for the process; where the application registered its own, that one serves.
    void share_arena() const {
        OrtMemoryInfo* info = nullptr;
        check_ort(ort, ort.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info), "ONNX Runtime");
        const OrtHandle<OrtMemoryInfo> held(info, ort.ReleaseMemoryInfo);
        if (OrtStatus* status = ort.CreateAndRegisterAllocator(environment.get(), info, nullptr))
            ort.ReleaseStatus(status);
    }
};

// A step's addresses, ready to run.
class OrtCall {
public:
    OrtCall(std::shared_ptr<OrtLibrary> library, std::shared_ptr<OrtSession> session, std::string where)
        : library_(std::move(library)),
          session_(std::move(session)),
          where_(std::move(where)),
          binding_(nullptr, library_->ort.ReleaseIoBinding) {
        OrtIoBinding* binding = nullptr;
        check_ort(library_->ort, library_->ort.CreateIoBinding(session_.get(), &binding), where_);
        binding_.reset(binding);
    }

    void bind(const SodaView& view, bool input) {
        const OrtApi& ort = library_->ort;
        OrtValue* value = nullptr;
        check_ort(ort,
                  ort.CreateTensorWithDataAsOrtValue(
                      library_->device.memory(), static_cast<OrtMemory*>(view.memory)->place(view),
                      size_t(view_bytes(view)), view.dims, size_t(view.rank), element_types[view.dtype], &value),
                  where_);
        const OrtHandle<OrtValue> held(value, ort.ReleaseValue);  // the binding keeps its own reference
        check_ort(ort, (input ? ort.BindInput : ort.BindOutput)(binding_.get(), view.name, value), where_);
    }

    void run() {
        std::unique_lock<std::mutex> order;
        if (library_->device.cuda()) {
            order = std::unique_lock<std::mutex>(library_->running);
            library_->device.cuda()->use_device();
        }
        OrtStatus* status =
            library_->ort.RunWithBinding(session_.get(), library_->device.run_options(), binding_.get());
        if (status) check_ort(library_->ort, status, where_ + ": ONNX Runtime failed");
    }

private:
    std::shared_ptr<OrtLibrary> library_;
    std::shared_ptr<OrtSession> session_;
    std::string where_;
    OrtHandle<OrtIoBinding> binding_;
};

class OrtEngine {
public:
    OrtEngine(std::shared_ptr<OrtLibrary> library, const SodaProgram& program)
        : library_(std::move(library)), path_(program.path) {
        const OrtApi& ort = library_->ort;
        const OrtHandle<OrtSessionOptions> options = make_options(program);
        auto kept = std::make_shared<SharedWeights::Kept>(library_->weights.add_to(options.get(), program));
        OrtSession* session = nullptr;
        check_ort(
            ort,
            ort.CreateSessionWithPrepackedWeightsContainer(library_->environment.get(), program.path, options.get(),
                                                           kept->container.get(), &session),
            path_ + ": ONNX Runtime cannot open it");
        session_ = std::shared_ptr<OrtSession>(
            session, [library = library_, kept](OrtSession* s) { library->ort.ReleaseSession(s); });
        library_->weights.drop_pages();
        ::malloc_trim(0);  // what repacking took and gave back
        check_ports(program.path, "input", PortReader(ort, session, path_, true).ports, program.inputs,
                    program.num_inputs);
        check_ports(program.path, "output", PortReader(ort, session, path_, false).ports, program.outputs,
                    program.num_outputs);
    }

    std::unique_ptr<OrtCall> bind(const char* label, const ViewList& inputs, const ViewList& outputs) const {
        auto call = std::make_unique<OrtCall>(library_, session_, say(label, ": ", path_));
        for (const SodaView& view : inputs) call->bind(view, true);
        for (const SodaView& view : outputs) call->bind(view, false);
        return call;
    }

private:
    OrtHandle<OrtSessionOptions> make_options(const SodaProgram& program) const {
        const OrtApi& ort = library_->ort;
        // to wake another thread for a policy's signals would take longer than they do
        const bool of_signals = program.num_outputs == 1 && std::string("signal") == program.outputs[0].name;
        const int threads = of_signals ? 1 : library_->threads;
        OrtSessionOptions* made = nullptr;
        check_ort(ort, ort.CreateSessionOptions(&made), path_);
        OrtHandle<OrtSessionOptions> options(made, ort.ReleaseSessionOptions);
        const auto set = [&](const char* key) { check_ort(ort, ort.AddSessionConfigEntry(made, key, "1"), path_); };
        check_ort(ort, ort.SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_ERROR), path_);
        check_ort(ort, ort.SetIntraOpNumThreads(made, threads), path_);
        check_ort(ort, ort.SetInterOpNumThreads(made, 1), path_);
        // each session has its own threads; those of the last step must not spin on the cores of the next one
        set("session.force_spinning_stop");
        if (!library_->device.cuda()) set("session.use_env_allocators");
        // a repacked copy of a text encoder's weights would not pay
        if (program.once) set("session.disable_prepacking");
        library_->device.add_provider(made, path_);
        return options;
    }

    std::shared_ptr<OrtLibrary> library_;
    std::string path_;
    std::shared_ptr<OrtSession> session_;
};

class OrtBackend {
public:
    using Memory = OrtMemory;
    using Engine = OrtEngine;
    using Call = OrtCall;

    explicit OrtBackend(const SodaBackendOptions& options) : library_(std::make_shared<OrtLibrary>(options)) {}
    std::unique_ptr<Memory> allocate(int64_t bytes) const { return library_->device.allocate(bytes); }
    void* stream() const { return cuda() ? cuda()->stream() : nullptr; }
    void judge(const char* name, const void* address) const { cuda()->judge(name, address); }
    void reserve_writes(int64_t bytes) const { cuda()->reserve_writes(bytes); }
    std::unique_ptr<Engine> open_engine(const SodaProgram& program) const {
        return std::make_unique<Engine>(library_, program);
    }

private:
    const std::shared_ptr<Cuda>& cuda() const { return library_->device.cuda(); }

    std::shared_ptr<OrtLibrary> library_;
};

}  // namespace
}  // namespace soda

SODA_BACKEND(soda::OrtBackend)
