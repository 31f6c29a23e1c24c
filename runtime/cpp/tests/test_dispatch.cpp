// What a step costs outside the engine's call: a backend that does nothing notes the time spent in it.
//     test_dispatch [bundle] [rounds]
#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "backends/host.hpp"
#include "check.hpp"
#include "checks.hpp"
#include "session.hpp"

namespace {

using Clock = std::chrono::steady_clock;
Clock::duration in_calls{};
constexpr double bar_us = 5.0;

struct IdleCall {
    void run() {
        const auto begin = Clock::now();
        in_calls += Clock::now() - begin;
    }
};

struct IdleEngine {
    std::unique_ptr<IdleCall> bind(const char*, const soda::ViewList& inputs, const soda::ViewList& outputs) const {
        for (const auto* views : {&inputs, &outputs})
            for (const SodaView& view : *views) soda::place_of(view);
        return std::make_unique<IdleCall>();
    }
};

struct IdleBackend {
    using Memory = soda::HostMemory;
    using Engine = IdleEngine;
    using Call = IdleCall;

    explicit IdleBackend(const SodaBackendOptions&) {}
    std::unique_ptr<Memory> allocate(int64_t bytes) const { return std::make_unique<Memory>(bytes); }
    std::unique_ptr<Engine> open_engine(const SodaProgram&) const { return std::make_unique<Engine>(); }
};

}  // namespace

int main(int argc, char** argv) {
    const std::string folder = argc > 1 ? argv[1] : SODA_GOLDEN "/v5-text";
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 500;
    return run_tests({{"a step costs little outside the engine", [&] {
                           auto backend = std::make_unique<soda::Backend>(*soda::backend_table<IdleBackend>(),
                                                                          soda::BackendOptions{});
                           soda::Session session(
                               std::make_shared<soda::Bundle>(folder, soda::open_manifest(folder), std::move(backend)));
                           const soda::Manifest& manifest = session.bundle().manifest();
                           soda_request request{};
                           const int64_t label = 0;
                           std::vector<float> embeds;
                           std::vector<int64_t> mask;
                           if (soda::find_port(manifest, "labels")) {
                               request.labels = &label;
                               request.num_labels = 1;
                           } else {
                               const soda::RequestPort& port = *soda::port_of_field(manifest, "embeds");
                               embeds.resize(size_t(soda::element_count(port.shape)));
                               mask.assign(size_t(port.shape[0]), 1);
                               request.embeds = request.negative_embeds = embeds.data();
                               request.token_mask = request.negative_token_mask = mask.data();
                               request.num_prompts = 1;
                               request.num_negatives = manifest.rows_per_sample == 2;
                           }
                           std::vector<double> microseconds;
                           for (int round = 0; round < rounds; ++round) {
                               session.start(request);
                               for (int64_t i = 0; i < manifest.sampler.steps; ++i) {
                                   in_calls = {};
                                   const auto begin = Clock::now();
                                   session.step(i);
                                   const std::chrono::duration<double, std::micro> outside =
                                       Clock::now() - begin - in_calls;
                                   microseconds.push_back(outside.count());
                               }
                           }
                           std::sort(microseconds.begin(), microseconds.end());
                           const double median = microseconds[microseconds.size() / 2];
                           std::printf("        %zu steps%s: median %.2f us, 99 %% below %.2f us\n",
                                       microseconds.size(), manifest.sampler.stochastic ? ", noise included" : "",
                                       median, microseconds[microseconds.size() * 99 / 100]);
                           CHECK(median <= (SODA_SANITIZED ? 100 : 1) * bar_us);
                       }}});
}
