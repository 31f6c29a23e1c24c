// How long a generation takes: accelerated and with every module computed, in turn, medians of some rounds.
//     latency BUNDLE [SAMPLES] [ROUNDS] [BACKEND] [THREADS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "soda_runtime.hpp"

namespace {

// Classes in turn, embeddings of noise and masks of ones: what any bundle takes.
soda::Request example_request(const soda::Bundle& bundle, int samples) {
    soda::Request request;
    request.samples(samples);
    for (const soda_port& port : bundle.ports()) {
        size_t count = 1;
        for (int32_t i = 1; i < port.rank; ++i) count *= static_cast<size_t>(port.shape[i]);
        if (port.kind == SODA_LABEL) {
            std::vector<int64_t> labels;
            for (int i = 0; i < samples; ++i) labels.push_back(i % (static_cast<int>(port.most) + 1));
            request.input(port.port, labels, samples);
        } else if (port.kind == SODA_EMBEDDING) {
            std::vector<float> values(count);
            soda::check(soda_noise(0, 0, 0, values.data(), count));
            port.negative ? request.negative_input(port.port, values) : request.input(port.port, values);
        } else if (port.kind == SODA_MASK) {
            const std::vector<int64_t> ones(count, 1);
            port.negative ? request.negative_input(port.port, ones) : request.input(port.port, ones);
        }
    }
    return request;
}

int number(const char* text, int least) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end != text && !*end && value >= least && value <= 1000000) return static_cast<int>(value);
    throw std::runtime_error("'" + std::string(text) + "' is not a whole number of at least " + std::to_string(least));
}

double seconds(soda::Session& session, const soda::Request& request) {
    const auto begin = std::chrono::steady_clock::now();
    session.generate(request);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s BUNDLE [SAMPLES] [ROUNDS] [BACKEND] [THREADS]\n", argv[0]);
        return 2;
    }
    try {
        const int samples = argc > 2 ? number(argv[2], 1) : 1, rounds = argc > 3 ? number(argv[3], 1) : 5;
        soda::OpenOptions options;
        options.backend = argc > 4 ? argv[4] : "";
        options.threads = argc > 5 ? number(argv[5], 0) : 0;
        const soda::Bundle bundle(argv[1], options);
        const soda_info info = bundle.info();
        soda::Request request = example_request(bundle, samples);
        soda::Session fast = bundle.session(), full = bundle.session();
        std::vector<double> accelerated, baseline;
        for (int round = 0; round <= rounds; ++round) {  // the first one opens engines and does not count
            accelerated.push_back(seconds(fast, request.baseline(false)));
            baseline.push_back(seconds(full, request.baseline(true)));
        }
        accelerated.erase(accelerated.begin());
        baseline.erase(baseline.begin());
        const double quick = median(accelerated), slow = median(baseline);
        std::printf("%s on %s, %d samples, %d steps: %.1f ms, everything computed %.1f ms, %.2f times as fast\n",
                    info.name, info.backend, samples, info.steps, quick * 1e3, slow * 1e3, slow / quick);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
