// TensorRT 10 and 11: engines that were built for this version and GPU. Compiled against the library's headers, never
// run: neither the library nor a GPU was there.
//
// Activations lie in one block that all engines share. An input or output whose place the library would not take is
// copied on the device: a slot renewed in place, and addresses that are not multiples of 256.
#include "trt_library.hpp"

#include "../files.hpp"
#include "host.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;

constexpr nvinfer1::DataType data_types[] = {nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kHALF,
                                             nvinfer1::DataType::kBF16, nvinfer1::DataType::kINT64};  // by soda dtype

char* device_place(const SodaView& view) {
    return static_cast<DeviceMemory*>(view.memory)->at(view.offset, view_bytes(view));
}

// An engine's context for one step, all addresses set.
class TrtCall {
public:
    TrtCall(std::shared_ptr<TrtLibrary> library, std::shared_ptr<nvinfer1::ICudaEngine> engine, std::string where)
        : library_(std::move(library)), engine_(std::move(engine)), where_(std::move(where)) {
        context_.reset(engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
        if (!context_) fail("TensorRT makes no context");
    }

    ~TrtCall() { library_->cuda->wait(); }  // its context may still be at work
    TrtCall(const TrtCall&) = delete;
    TrtCall& operator=(const TrtCall&) = delete;

    void fix(const char* name, void* address) {
        if (!context_->setTensorAddress(name, address)) fail(say("TensorRT refuses the address of '", name, "'"));
    }

    void bind(const ViewList& inputs, const ViewList& outputs, int64_t max_batch) {
        for (const SodaView& view : inputs) {
            nvinfer1::Dims dims{};
            dims.nbDims = view.rank;
            for (int32_t i = 0; i < view.rank; ++i) dims.d[i] = view.dims[i];
            if (!context_->setInputShape(view.name, dims))
                fail(say("the engine takes at most ", max_batch, " samples; make smaller requests"));
            place(view, before_, false);
        }
        for (const SodaView& view : outputs) {
            bool taken = false;
            for (const SodaView& input : inputs) taken = taken || device_place(input) == device_place(view);
            place(view, after_, taken);
        }
        library_->scratch.reserve(scratch_bytes_);
        library_->activations.reserve(context_->updateDeviceMemorySizeForShapes());
    }

    void run() {
        const std::lock_guard<std::mutex> guard(library_->lock);
        const Cuda& cuda = *library_->cuda;
        cuda.use_device();
        char* scratch = library_->scratch.address();
        for (const auto* copies : {&before_, &after_})
            for (const Copy& copy : *copies) fix(copy.name.c_str(), scratch + copy.offset);
        context_->setDeviceMemoryV2(library_->activations.address(), library_->activations.bytes());
        for (const Copy& copy : before_) cuda.copy(scratch + copy.offset, copy.place, copy.bytes);
        if (!context_->enqueueV3(static_cast<cudaStream_t>(cuda.stream()))) fail("the engine failed");
        for (const Copy& copy : after_) cuda.copy(copy.place, scratch + copy.offset, copy.bytes);
    }

private:
    struct Copy {
        std::string name;
        char* place;
        int64_t offset, bytes;  // in the scratch block
    };

    void place(const SodaView& view, std::vector<Copy>& copies, bool taken) {
        char* address = device_place(view);
        if (!taken && reinterpret_cast<uintptr_t>(address) % alignment_bytes == 0) return fix(view.name, address);
        const int64_t bytes = view_bytes(view);
        copies.push_back({view.name, address, scratch_bytes_, bytes});
        scratch_bytes_ += (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
    }

    [[noreturn]] void fail(const std::string& what) const {
        throw EngineError(say(where_, ": ", what, ": ", library_->logger.said()));
    }

    std::shared_ptr<TrtLibrary> library_;
    std::shared_ptr<nvinfer1::ICudaEngine> engine_;
    std::string where_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<Copy> before_, after_;
    int64_t scratch_bytes_ = 0;
};

class TrtEngine {
public:
    TrtEngine(std::shared_ptr<TrtLibrary> library, const SodaProgram& program)
        : library_(std::move(library)), path_(program.path), index_(library_->index_beside(path_)) {
        const size_t slash = path_.rfind('/');
        const std::string& file = index_.weights_file.at(path_.substr(slash + 1));
        weights_path_ = file.empty() ? "" : path_.substr(0, slash + 1) + file;
        {
            const MappedFile content(path_);
            library_->cuda->use_device();
            engine_.reset(library_->runtime->deserializeCudaEngine(content.data(), content.size()));
        }
        if (!engine_) throw EngineError(say(path_, ": TensorRT cannot open it: ", library_->logger.said()));
        std::map<std::string, const SodaWeight*> others;
        for (int32_t i = 0; i < program.num_replaced; ++i) others[program.replaced[i].name] = &program.replaced[i];
        if (index_.weights == "stripped") refit(others);
        std::map<std::string, FoundPort> inputs, outputs;
        for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) add_port(engine_->getIOTensorName(i), inputs, outputs);
        if (index_.weights == "inputs") take_weights(inputs, program, others);
        check_ports(program.path, "input", inputs, program.inputs, program.num_inputs);
        check_ports(program.path, "output", outputs, program.outputs, program.num_outputs);
    }

    std::unique_ptr<TrtCall> bind(const char* label, const ViewList& inputs, const ViewList& outputs) const {
        const std::lock_guard<std::mutex> guard(library_->lock);
        library_->cuda->use_device();
        auto call = std::make_unique<TrtCall>(library_, engine_, say(label, ": ", path_));
        for (const auto& [name, address] : weights_) call->fix(name.c_str(), address);
        call->bind(inputs, outputs, index_.max_batch);
        return call;
    }

private:
    void add_port(const char* name, std::map<std::string, FoundPort>& inputs,
                  std::map<std::string, FoundPort>& outputs) {
        const nvinfer1::Dims dims = engine_->getTensorShape(name);
        FoundPort port{-1, {}, say("of TensorRT's type ", int(engine_->getTensorDataType(name)), " [")};
        for (int32_t dtype = 0; dtype < 4; ++dtype)
            if (data_types[dtype] == engine_->getTensorDataType(name)) port.dtype = dtype;
        for (int32_t i = 0; i < dims.nbDims; ++i) {
            port.dims.push_back(dims.d[i]);
            port.text += say(i ? ", " : "", dims.d[i]);
        }
        port.text += "]";
        (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? inputs : outputs)[name] = port;
    }

    // Inputs beyond the manifest's are weights: one copy on the device serves all engines.
    void take_weights(std::map<std::string, FoundPort>& inputs, const SodaProgram& program,
                      const std::map<std::string, const SodaWeight*>& others) {
        for (auto port = inputs.begin(); port != inputs.end();) {
            bool known = false;
            for (int32_t i = 0; i < program.num_inputs; ++i) known = known || port->first == program.inputs[i].name;
            if (known || weights_path_.empty()) {
                ++port;
                continue;
            }
            const auto other = others.find(port->first);
            weights_[port->first] =
                other == others.end() ? library_->weight(weights_path_, port->first) : copy(*other->second);
            port = inputs.erase(port);
        }
    }

    // A weight that stands for a file's own, on the device.
    char* copy(const SodaWeight& weight) {
        own_.push_back(std::make_unique<DeviceMemory>(library_->cuda, weight.bytes));
        own_.back()->write(0, weight.data, weight.bytes);
        return own_.back()->at(0, weight.bytes);
    }

    // Put the weights of a stripped engine back, or others in their place.
    void refit(const std::map<std::string, const SodaWeight*>& others) {
        if (weights_path_.empty()) throw EngineError(path_ + ": a stripped engine without weights; rebuild the bundle");
        const std::unique_ptr<nvinfer1::IRefitter> refitter(library_->make_refitter(*engine_));
        if (!refitter) throw EngineError(say(path_, ": TensorRT makes no refitter: ", library_->logger.said()));
        std::vector<const char*> names(size_t(refitter->getAllWeights(0, nullptr)));
        refitter->getAllWeights(int32_t(names.size()), names.data());
        const MappedFile mapped(weights_path_);  // until the library has copied them
        const TensorEntries entries = read_header(weights_path_);
        const std::map<std::string, std::pair<nvinfer1::DataType, int64_t>> types = {
            {"F32", {nvinfer1::DataType::kFLOAT, 4}},
            {"F16", {nvinfer1::DataType::kHALF, 2}},
            {"BF16", {nvinfer1::DataType::kBF16, 2}},
            {"I64", {nvinfer1::DataType::kINT64, 8}}};
        for (const char* name : names) {
            const auto entry = entries.find(name);
            const auto type = entry == entries.end() ? types.end() : types.find(entry->second.dtype);
            if (type == types.end())
                throw EngineError(
                    say(path_, ": weight ", shown(name), " is not in the weights file; rebuild the bundle"));
            const int64_t count = (entry->second.end - entry->second.begin) / type->second.second;
            const auto other = others.find(name);
            const void* data = other == others.end() ? mapped.data() + entry->second.begin : other->second->data;
            refitter->setNamedWeights(name, {type->second.first, data, count});
        }
        if (!refitter->refitCudaEngine())
            throw EngineError(say(path_, ": TensorRT cannot refit it: ", library_->logger.said()));
    }

    std::shared_ptr<TrtLibrary> library_;
    std::string path_, weights_path_;
    const EngineIndex& index_;
    std::shared_ptr<nvinfer1::ICudaEngine> engine_;
    std::map<std::string, char*> weights_;
    std::vector<std::unique_ptr<DeviceMemory>> own_;  // of weights that stand for a file's own
};

class TrtBackend {
public:
    using Memory = DeviceMemory;
    using Engine = TrtEngine;
    using Call = TrtCall;

    explicit TrtBackend(const SodaBackendOptions& options) {
        if (cuda_ordinal(options.device) < 0)
            throw EngineError(say("device ", shown(options.device), ": TensorRT engines run on cuda, or cuda:N"));
        library_ = std::make_shared<TrtLibrary>(options);
    }
    std::unique_ptr<Memory> allocate(int64_t bytes) const { return std::make_unique<Memory>(library_->cuda, bytes); }
    void* stream() const { return library_->cuda->stream(); }
    void judge(const char* name, const void* address) const { library_->cuda->judge(name, address); }
    void reserve_writes(int64_t bytes) const { library_->cuda->reserve_writes(bytes); }
    void judge_replaced(const std::string& folder) const {
        if (library_->index_beside(folder + "/").weights == "baked")
            throw EngineError(say(folder,
                                  ": no LoRA can be added: its engines have their weights built in; build with "
                                  "--engine-weights stripped or inputs, or with the LoRA baked in (--lora)"));
    }
    std::unique_ptr<Engine> open_engine(const SodaProgram& program) const {
        return std::make_unique<Engine>(library_, program);
    }

private:
    std::shared_ptr<TrtLibrary> library_;
};

}  // namespace
}  // namespace soda

SODA_BACKEND(soda::TrtBackend)
