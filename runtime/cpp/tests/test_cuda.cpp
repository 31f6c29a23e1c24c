// The device path of the backend ort on recording stand-ins (fake_cudart, fake_onnxruntime): what is allocated, copied
// and waited for, and when. It has never run on a GPU.
#include <dlfcn.h>

#include <algorithm>

#include "check.hpp"
#include "soda_runtime.hpp"

namespace {

const std::string golden = SODA_GOLDEN;

template <class Function>
Function fake(const char* name) {
    static void* library = ::dlopen("libcudart.so.13", RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    const auto function = reinterpret_cast<Function>(::dlsym(library, name));
    CHECK(function);  // else it is the real library
    return function;
}

std::vector<std::string> log_lines() {
    std::istringstream text(fake<const char* (*)()>("fake_cuda_log")());
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
}

void clear_log() {
    fake<void (*)()>("fake_cuda_clear")();
}

soda::OpenOptions device(const char* name) {
    soda::OpenOptions options;
    options.backend = "ort";
    options.device = name;
    options.threads = 1;
    if (std::string(name) != "cpu") options.engine_library = SODA_FAKE_ONNXRUNTIME;
    return options;
}

soda::Request request_for(const soda_info& info) {
    if (info.condition == SODA_LABELS) return soda::Request().labels({3, 7}).seed(5);
    const size_t tokens = size_t(info.max_tokens);
    const std::vector<float> embeds(tokens * size_t(info.embed_width), 0.25f);
    const std::vector<int64_t> mask(tokens, 1);
    return soda::Request().embeds(embeds, mask).negative_embeds(embeds, mask).seed(5);
}

std::vector<float> play(soda::Session& session, const soda_info& info) {
    return session.generate(request_for(info).progress([](int done, int) {
        fake<void (*)(const char*)>("fake_cuda_mark")(("step " + std::to_string(done)).c_str());
        return false;
    }));
}

void a_bundle_plays_as_on_the_cpu_and_nothing_waits_between_steps(const std::string& name) {
    clear_log();
    {
        const soda::Bundle bundle(golden + "/" + name, device("cuda"));
        const soda_info info = bundle.info();
        soda::Session session = bundle.session();
        soda::Session cpu = soda::Bundle(golden + "/" + name, device("cpu")).session();
        CHECK(play(session, info) == cpu.generate(request_for(info)));
        CHECK(session.images() == cpu.images());
        clear_log();
        play(session, info);  // everything is open: nothing is allocated, and only noise goes in
        const auto lines = log_lines();
        const auto first = std::find(lines.begin(), lines.end(), "step 1");
        const auto last = std::find(lines.begin(), lines.end(), "step " + std::to_string(info.steps));
        CHECK(first < last && last != lines.end());
        CHECK(std::count(first, last, "copy in") == (info.stochastic ? info.steps - 1 : 0));
        for (const char* what : {"synchronize", "malloc", "free", "copy out", "copy on the default stream"})
            CHECK(std::count(first, last, what) == 0);
        CHECK(std::count(lines.begin(), lines.end(), "malloc") == 0);
        CHECK(std::count(lines.begin(), lines.end(), "copy out") == 1);  // the latents
    }
    clear_log();
}

void what_is_allocated_is_freed() {
    clear_log();
    {
        soda::Session session = soda::Bundle(golden + "/v3", device("cuda")).session();
        session.generate(soda::Request().labels({3, 7}));
        session.generate(soda::Request().labels({3}).baseline());
    }
    const auto lines = log_lines();
    CHECK(std::count(lines.begin(), lines.end(), "malloc") > 5);
    CHECK(std::count(lines.begin(), lines.end(), "malloc") == std::count(lines.begin(), lines.end(), "free"));
    CHECK(std::count(lines.begin(), lines.end(), "stream") == 1);
    CHECK(lines.back() == "end of stream");
    for (size_t i = 0; i < lines.size(); ++i)
        if (lines[i] == "free") CHECK(i > 0 && lines[i - 1] == "synchronize");
}

void the_callers_stream_is_used_and_left() {
    clear_log();
    int stream = 0;
    soda::OpenOptions options = device("cuda:0");
    options.cuda_stream = &stream;
    soda::Bundle(golden + "/v3", options).session().generate(soda::Request().labels({3}));
    const auto lines = log_lines();
    CHECK(std::count(lines.begin(), lines.end(), "stream") == 0);
    CHECK(std::count(lines.begin(), lines.end(), "end of stream") == 0);
}

void devices_that_are_not_there_are_refused() {
    for (const char* name : {"cuda:7", "cuda:", "cuda:x", "gpu", "cuda:99999"}) {
        soda_status status = SODA_OK;
        try {
            soda::Bundle(golden + "/v3", device(name));
        } catch (const soda::RuntimeError& error) {
            status = error.family();
        }
        CHECK(status == SODA_ENGINE_ERROR);
    }
}

}  // namespace

int main() {
    const auto plays = [](const char* name) {
        return [name] { a_bundle_plays_as_on_the_cpu_and_nothing_waits_between_steps(name); };
    };
    return run_tests({
        {"v2 plays as on the CPU, nothing waits between steps", plays("v2")},
        {"v3 plays as on the CPU, nothing waits between steps", plays("v3")},
        {"v3-text plays as on the CPU, nothing waits between steps", plays("v3-text")},
        {"what is allocated is freed", what_is_allocated_is_freed},
        {"the caller's stream is used, and left", the_callers_stream_is_used_and_left},
        {"devices that are not there are refused", devices_that_are_not_there_are_refused},
    });
}
