// The C edge of bundles.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "describe.hpp"
#include "edge.hpp"
#include "soda_runtime.h"
#include "starts.hpp"

namespace soda {
namespace {

constexpr int32_t max_threads = 1024;  // an engine library starts all of them: thousands take it minutes

std::vector<LoraArgument> read_loras(const soda_open_options& options) {
    std::vector<LoraArgument> loras;
    read_structs(options.loras, options.num_loras, "loras", [&](const soda_lora& lora) {
        demand(lora.path, "a path in loras");
        loras.push_back({lora.path, lora.strength});
    });
    return loras;
}

std::string text_of(const char* text) {
    return text ? text : "";
}

}  // namespace
}  // namespace soda

using namespace soda;

soda_status soda_bundle_open(const char* folder, const soda_open_options* options, soda_bundle** bundle) {
    if (bundle) *bundle = nullptr;
    return guarded([&] {
        demand(folder, "folder");
        demand(bundle, "bundle");
        const soda_open_options given = options ? read_struct(options, "options") : soda_open_options{};
        if (given.threads < 0 || given.threads > max_threads)
            refuse(say("options.threads is ", given.threads, "; 0 (the library chooses) to ", max_threads));
        const BackendOptions wanted{text_of(given.backend),
                                    text_of(given.device),
                                    text_of(given.backends_folder),
                                    text_of(given.engine_library),
                                    "",
                                    given.threads,
                                    given.cuda_stream};
        auto opened = std::make_shared<Bundle>(folder, wanted, read_loras(given));
        if (given.preload) opened->open_engines();
        *bundle = new soda_bundle{std::move(opened)};
    });
}

soda_status soda_bundle_size(const soda_bundle* bundle, int32_t index, int32_t* height, int32_t* width) {
    return guarded([&] {
        demand(bundle, "bundle");
        demand(height, "height");
        demand(width, "width");
        const auto& sizes = bundle->bundle->sizes();
        if (index < 0 || size_t(index) >= sizes.size()) refuse(say("size ", index, " of ", sizes.size()));
        *height = int32_t(sizes[size_t(index)].height);
        *width = int32_t(sizes[size_t(index)].width);
    });
}

soda_status soda_bundle_at(const soda_bundle* bundle, int32_t height, int32_t width, soda_bundle** sized) {
    if (sized) *sized = nullptr;
    return guarded([&] {
        demand(bundle, "bundle");
        demand(sized, "sized");
        *sized = new soda_bundle{bundle->bundle->at(height, width)};
    });
}

soda_status soda_bundle_set_lora_strengths(soda_bundle* bundle, const double* strengths, int32_t count) {
    return guarded([&] {
        demand(bundle, "bundle");
        if (count < 0) refuse(say("count is ", count));
        if (count) demand(strengths, "strengths");
        bundle->bundle->set_lora_strengths(std::vector<double>(strengths, strengths + count));
    });
}

void soda_bundle_close(soda_bundle* bundle) {
    if (bundle && bundle->bundle->is_here()) delete bundle;
}

soda_status soda_bundle_info(const soda_bundle* bundle, soda_info* info) {
    return guarded([&] {
        demand(bundle, "bundle");
        write_struct(info, describe_bundle(*bundle->bundle), "info");
    });
}

soda_status soda_bundle_port(const soda_bundle* bundle, int32_t direction, int32_t index, soda_port* port) {
    return guarded([&] {
        demand(bundle, "bundle");
        if (direction != SODA_INPUTS && direction != SODA_OUTPUTS) refuse(say("direction is ", direction));
        const Bundle& opened = *bundle->bundle;
        const auto ports = direction == SODA_INPUTS ? describe_inputs(opened.manifest()) : describe_outputs(opened);
        if (index < 0 || size_t(index) >= ports.size()) refuse(say("port ", index, " of ", ports.size()));
        write_struct(port, ports[size_t(index)], "port");
    });
}

soda_status soda_bundle_slot(const soda_bundle* bundle, int32_t index, soda_slot* slot) {
    return guarded([&] {
        demand(bundle, "bundle");
        const Manifest& m = bundle->bundle->manifest();
        if (index < 0 || size_t(index) >= m.slots.size()) refuse(say("slot ", index, " of ", m.slots.size()));
        write_struct(slot, describe_slot(m, size_t(index)), "slot");
    });
}

soda_status soda_bundle_step(const soda_bundle* bundle, int32_t index, soda_step_info* step) {
    return guarded([&] {
        demand(bundle, "bundle");
        const Manifest& m = bundle->bundle->manifest();
        if (index < 0 || index >= m.sampler.steps) refuse(say("step ", index, " of ", m.sampler.steps));
        const int64_t number = m.steps[size_t(index)].program;
        const Program& program = m.programs[size_t(number)];
        soda_step_info result{};
        result.file = program.file.c_str();
        result.program = int32_t(number);
        result.reads = int32_t(program.reads.size());
        result.writes = int32_t(program.writes.size());
        result.timestep = m.sampler.timesteps[size_t(index)];
        result.flops = program.flops;
        const std::vector<bool> cached = cached_steps(m, index);
        const bool starts = bundle->bundle->tables().count(start_levels_table) != 0;
        result.full_steps = starts ? int32_t(std::count(cached.begin() + index, cached.end(), false)) : -1;
        write_struct(step, result, "step");
    });
}
