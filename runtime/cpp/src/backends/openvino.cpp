// OpenVINO on the CPU. It reads the bundle's ONNX graphs, weights included, and compiles a program once for each batch
// size: static shapes give it faster kernels.
#include <unistd.h>

#include <map>
#include <mutex>
#include <openvino/core/graph_util.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>

#include "host.hpp"

namespace soda {
namespace {

const ov::element::Type element_types[] = {ov::element::f32, ov::element::f16, ov::element::bf16,
                                           ov::element::i64};  // by soda dtype

// Neighbouring channels of a token whose activations share a scale where weights are int8 (docs/decisions/0020).
constexpr uint64_t quantized_together = 128;

ov::Shape shape_of(const SodaView& view) {
    return ov::Shape(view.dims, view.dims + view.rank);
}

ov::AnyMap properties_of(const SodaBackendOptions& options) {
    const std::string precision = options.precision;
    ov::AnyMap properties = {
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        ov::num_streams(1),
        ov::hint::inference_precision(precision == "fp16"   ? ov::element::f16
                                      : precision == "bf16" ? ov::element::bf16
                                                            : ov::element::f32),
        ov::hint::dynamic_quantization_group_size(quantized_together),
    };
    if (options.threads > 0) properties.insert(ov::inference_num_threads(options.threads));
    return properties;
}

// Words of OpenVINO's errors end in long traces; the first lines say what happened.
[[noreturn]] void fail(const std::string& where, const std::exception& error) {
    throw EngineError(say(where, ": ", std::string(error.what()).substr(0, 600)));
}

bool overlaps(const SodaView& a, const SodaView& b) {
    return place_of(a) < place_of(b) + view_bytes(b) && place_of(b) < place_of(a) + view_bytes(a);
}

class OpenvinoCall {
public:
    OpenvinoCall(std::shared_ptr<ov::CompiledModel> model, std::string where)
        : where_(std::move(where)), model_(std::move(model)) {
        request_ = model_->create_infer_request();
    }

    void bind(const ViewList& inputs, const ViewList& outputs) {
        for (const SodaView& view : inputs)
            request_.set_tensor(view.name, ov::Tensor(element_types[view.dtype], shape_of(view), place_of(view)));
        for (const SodaView& view : outputs) {
            char* place = place_of(view);
            // a slot that is renewed in place: the library may write before it has read, so it writes elsewhere
            for (const SodaView& input : inputs)
                if (overlaps(view, input) && place == place_of(view)) {
                    apart_.push_back({std::make_unique<HostMemory>(view_bytes(view)), place, view_bytes(view)});
                    place = apart_.back().memory->at(0, view_bytes(view));
                }
            request_.set_tensor(view.name, ov::Tensor(element_types[view.dtype], shape_of(view), place));
        }
    }

    void run() {
        try {
            request_.infer();
        } catch (const std::exception& error) {
            fail(where_ + ": OpenVINO failed", error);
        }
        for (const Apart& each : apart_) std::memcpy(each.place, each.memory->at(0, each.bytes), size_t(each.bytes));
    }

private:
    struct Apart {
        std::unique_ptr<HostMemory> memory;
        char* place;
        int64_t bytes;
    };

    std::string where_;
    std::shared_ptr<ov::CompiledModel> model_;
    ov::InferRequest request_;
    std::vector<Apart> apart_;
};

std::map<std::string, FoundPort> ports_of(const ov::OutputVector& outputs) {
    std::map<std::string, FoundPort> ports;
    for (const auto& output : outputs) {
        FoundPort port{-1, {}, say(output.get_element_type(), " ", output.get_partial_shape())};
        for (int32_t dtype = 0; dtype < 4; ++dtype)
            if (element_types[dtype] == output.get_element_type()) port.dtype = dtype;
        for (const ov::Dimension& side : output.get_partial_shape())
            port.dims.push_back(side.is_static() ? side.get_length() : -1);
        ports[output.get_any_name()] = port;
    }
    return ports;
}

// One for each process, never freed. The CPU plugin of every core gives the thread that it is made in a stack for
// signal handlers. Where cores are freed in another order than the reverse of their making, that thread keeps a stack
// that is gone, and its next signal ends the process.
ov::Core& process_core() {
    static std::mutex lock;
    static auto& cores = *new std::map<pid_t, ov::Core*>;
    const std::lock_guard<std::mutex> guard(lock);
    ov::Core*& core = cores[::getpid()];
    if (!core) core = new ov::Core;
    return *core;
}

class OpenvinoEngine {
public:
    OpenvinoEngine(ov::AnyMap properties, const SodaProgram& program)
        : properties_(std::move(properties)), path_(program.path) {
        try {
            model_ = process_core().read_model(path_);
        } catch (const std::exception& error) {
            fail(path_ + ": OpenVINO cannot open it", error);
        }
        replace_weights(program);
        rename(model_->outputs(), program.outputs, program.num_outputs);
        check_ports(program.path, "input", ports_of(model_->inputs()), program.inputs, program.num_inputs);
        check_ports(program.path, "output", ports_of(model_->outputs()), program.outputs, program.num_outputs);
    }

    std::unique_ptr<OpenvinoCall> bind(const char* label, const ViewList& inputs, const ViewList& outputs) {
        const std::string where = say(label, ": ", path_);
        try {
            auto call = std::make_unique<OpenvinoCall>(compiled(inputs), where);
            call->bind(inputs, outputs);
            return call;
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {
            fail(where + ": OpenVINO refuses a buffer", error);
        }
    }

private:
    // Constants of the graph that share memory with the weights that stand in their place.
    void replace_weights(const SodaProgram& program) const {
        std::map<std::string, const SodaWeight*> others;
        for (int32_t i = 0; i < program.num_replaced; ++i) others[program.replaced[i].name] = &program.replaced[i];
        if (others.empty()) return;
        for (const auto& node : model_->get_ops()) {
            const auto other = others.find(node->get_friendly_name());
            if (other == others.end() || !ov::is_type<ov::op::v0::Constant>(node)) continue;
            const SodaWeight& weight = *other->second;
            const ov::Shape shape(weight.dims, weight.dims + weight.rank);
            const ov::Tensor values(node->get_element_type(), shape, const_cast<void*>(weight.data));
            const auto constant = std::make_shared<ov::op::v0::Constant>(values);
            constant->set_friendly_name(node->get_friendly_name());
            ov::replace_node(node, constant);
        }
    }

    // An output that is also another value of the graph has several names; the manifest's is the one that counts.
    static void rename(ov::OutputVector outputs, const SodaPort* expected, int32_t count) {
        for (auto& output : outputs)
            for (int32_t i = 0; i < count; ++i)
                if (output.get_names().count(expected[i].name)) output.set_names({expected[i].name});
    }

    // Kept as long as some session is bound to it: one batch size after another would fill the memory.
    std::shared_ptr<ov::CompiledModel> compiled(const ViewList& inputs) {
        std::map<std::string, ov::PartialShape> shapes;
        std::string key;
        for (const SodaView& view : inputs) {
            shapes[view.name] = shape_of(view);
            key += say(view.name, shape_of(view));
        }
        const std::lock_guard<std::mutex> guard(lock_);
        if (auto known = compiled_[key].lock()) return known;
        const std::shared_ptr<ov::Model> fixed = model_->clone();
        fixed->reshape(shapes);
        auto made = std::make_shared<ov::CompiledModel>(process_core().compile_model(fixed, "CPU", properties_));
        compiled_[key] = made;
        return made;
    }

    ov::AnyMap properties_;
    std::string path_;
    std::shared_ptr<ov::Model> model_;
    std::mutex lock_;
    std::map<std::string, std::weak_ptr<ov::CompiledModel>> compiled_;  // by the inputs' shapes
};

class OpenvinoBackend {
public:
    using Memory = HostMemory;
    using Engine = OpenvinoEngine;
    using Call = OpenvinoCall;

    explicit OpenvinoBackend(const SodaBackendOptions& options) {
        if (std::string(options.device) != "cpu")
            throw EngineError(say("device ", shown(options.device), ": this runtime uses OpenVINO on 'cpu'"));
        properties_ = properties_of(options);
    }
    std::unique_ptr<Memory> allocate(int64_t bytes) const { return std::make_unique<Memory>(bytes); }
    std::unique_ptr<Engine> open_engine(const SodaProgram& program) const {
        return std::make_unique<Engine>(properties_, program);
    }

private:
    ov::AnyMap properties_;
};

}  // namespace
}  // namespace soda

SODA_BACKEND(soda::OpenvinoBackend)
