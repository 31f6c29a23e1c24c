// The device path of the backend ort on recording stand-ins (fake_cudart, fake_onnxruntime): what is allocated, copied
// and waited for, and when. It has never run on a GPU.
#include <algorithm>
#include <thread>

#include "device_twin.hpp"

namespace {

const std::string golden = SODA_GOLDEN;

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
        for (const char* what : {"synchronize", "wait", "malloc", "free", "pin", "event", "copy in, waiting",
                                 "copy out", "copy on the default stream"})
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
    CHECK(std::count(lines.begin(), lines.end(), "end of stream") == 1);
    CHECK(std::count(lines.begin(), lines.end(), "pin") == 1);
    CHECK(std::count(lines.begin(), lines.end(), "unpin") == 1);
    CHECK(std::count(lines.begin(), lines.end(), "event") == std::count(lines.begin(), lines.end(), "end of event"));
    for (size_t i = 0; i < lines.size(); ++i)
        if (lines[i] == "free") CHECK(i > 0 && lines[i - 1] == "synchronize");
}

void device_memory_goes_in_and_out_without_the_host(const std::string& name) {
    const soda::Bundle bundle(golden + "/" + name, device("cuda"));
    const soda_info info = bundle.info();
    CHECK(info.cuda_stream);
    soda::Session session = bundle.session();
    soda::Session cpu = soda::Bundle(golden + "/" + name, device("cpu")).session();
    CHECK(!soda::Bundle(golden + "/" + name, device("cpu")).info().cuda_stream);
    const Twin twin(info, 2);
    const auto expected = cpu.generate(twin.host);
    const OnDevice first(expected.size() * 4), second(expected.size() * 4), half(expected.size() * 4);
    session.run(twin.device);  // everything is open from now on
    finish();
    const bool decodes = name == "v3-text";
    const OnDevice image(2 * size_t(info.image_shape[0] * info.image_shape[1] * info.image_shape[2]) * 4);
    if (decodes) session.to_device("images", image.address(), image.bytes());
    clear_log();
    session.start(twin.device);
    for (int i = 0; i < info.steps; ++i) {
        if (i == 5) session.to_device("latents", half.address(), half.bytes());
        session.step(i);
    }
    session.to_device("latents", first.address(), first.bytes());
    if (decodes) session.to_device("images", image.address(), image.bytes());
    session.run(twin.device);  // put into the stream before anything of the first has run
    session.to_device("latents", second.address(), second.bytes());
    const auto lines = log_lines();
    for (const char* what :
         {"synchronize", "wait", "malloc", "free", "pin", "copy in, waiting", "copy out", "copy on the default stream"})
        CHECK(std::count(lines.begin(), lines.end(), what) == 0);
    finish();
    CHECK(first.floats() == expected && second.floats() == expected && half.floats() != expected);
    CHECK(session.latents() == expected);
    if (!decodes) return;
    const auto planes = image.floats(), images = cpu.images();
    const size_t channels = size_t(info.image_shape[2]), pixels = planes.size() / 2 / channels;
    for (size_t i = 0; i < planes.size(); ++i)
        CHECK(planes[i] == images[(i / pixels / channels * pixels + i % pixels) * channels + i / pixels % channels]);
}

void what_is_on_its_way_is_not_overwritten() {
    const soda::Bundle bundle(golden + "/v3", device("cuda"));
    const soda_info info = bundle.info();
    soda::Session session = bundle.session();
    session.generate(request_for(info));
    const size_t requests = 250, bytes = 8 * latent_count(info);
    std::vector<std::unique_ptr<OnDevice>> outputs;
    for (size_t i = 0; i < requests; ++i) outputs.push_back(std::make_unique<OnDevice>(bytes));
    clear_log();
    for (size_t i = 0; i < requests; ++i) {
        session.run(request_for(info).seed(i));
        session.to_device("latents", outputs[i]->address(), bytes);
    }
    const auto lines = log_lines();
    CHECK(std::count(lines.begin(), lines.end(), "wait") > 0);  // there is no room for the noise of so many
    CHECK(std::count(lines.begin(), lines.end(), "synchronize") == 0);
    CHECK(std::count(lines.begin(), lines.end(), "copy in, waiting") == 0);
    finish();
    soda::Session cpu = soda::Bundle(golden + "/v3", device("cpu")).session();
    for (size_t i = 0; i < requests; ++i) CHECK(outputs[i]->floats() == cpu.generate(request_for(info).seed(i)));
}

void threads_share_the_stream() {
    const soda::Bundle bundle(golden + "/v3", device("cuda"));
    const soda_info info = bundle.info();
    constexpr size_t threads = 6, rounds = 5;
    std::vector<std::vector<float>> found(threads * rounds);
    std::vector<std::thread> running;
    for (size_t thread = 0; thread < threads; ++thread)
        running.emplace_back([&, thread] {
            soda::Session session = bundle.session();
            for (size_t i = thread; i < found.size(); i += threads)
                found[i] = session.generate(request_for(info).seed(i));
        });
    for (auto& thread : running) thread.join();
    soda::Session cpu = soda::Bundle(golden + "/v3", device("cpu")).session();
    for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == cpu.generate(request_for(info).seed(i)));
}

std::string refusal(const std::function<void()>& body) {
    try {
        body();
    } catch (const soda::RuntimeError& error) {
        CHECK(error.family() == SODA_REQUEST_ERROR && std::string(error.what()).find('\n') == std::string::npos);
        return error.what();
    }
    throw std::runtime_error("was not refused");
}

bool says(const std::string& message, const char* what) {
    if (message.find(what) != std::string::npos) return true;
    std::printf("        said: %s\n", message.c_str());
    return false;
}

void device_memory_that_does_not_fit_is_refused() {
    const soda::Bundle bundle(golden + "/v3", device("cuda"));
    const soda_info info = bundle.info();
    soda::Session session = bundle.session();
    soda::Session cpu = soda::Bundle(golden + "/v3", device("cpu")).session();
    const Twin twin(info, 2);
    const OnDevice room(2 * latent_count(info) * 4);
    std::vector<float> host(2 * latent_count(info));
    const auto refused = [&](soda::Session& by, const char* name, const void* address, size_t bytes) {
        return refusal([&] { by.start(soda::Request(twin.device).on_device(name, address, bytes)); });
    };
    session.run(twin.device);
    CHECK(says(refusal([&] { cpu.start(twin.device); }), "this one is on the CPU"));
    CHECK(says(refused(session, "noise_initial", nullptr, room.bytes()), "it is NULL"));
    CHECK(says(refused(session, "noise_initial", room.address(), room.bytes() - 1),
               "has 511 bytes, the request takes 512"));
    CHECK(says(refused(session, "noise_steps", room.address(), room.bytes()), "the request takes 5120"));
    CHECK(says(refused(session, "noise_initial", host.data(), room.bytes()), "not memory of a CUDA device"));
    CHECK(says(refused(session, "seed", room.address(), 8), "is no input"));
    CHECK(says(refused(session, "embeds", room.address(), 8), "takes no prompt"));
    CHECK(says(refusal([&] { session.start(soda::Request(twin.device).noise(host)); }), "on the host, too"));
    const auto output = [&](soda::Session& by, const char* name, void* address, size_t bytes) {
        return refusal([&] { by.to_device(name, address, bytes); });
    };
    CHECK(says(output(session, "latents", nullptr, room.bytes()), "NULL"));
    CHECK(says(output(session, "latents", room.address(), room.bytes() - 1), "room for 511 bytes"));
    CHECK(says(output(session, "latents", host.data(), room.bytes()), "not memory of a CUDA device"));
    CHECK(says(output(session, "noise", room.address(), room.bytes()), "none of"));
    CHECK(says(output(session, "images", room.address(), room.bytes()), "no decoder"));
    cpu.run(twin.host);
    CHECK(says(output(cpu, "latents", room.address(), room.bytes()), "on the CPU"));
    session.to_device("latents", room.address(), room.bytes());  // what was refused changed nothing
    finish();
    CHECK(room.floats() == cpu.latents());
}

// Samples on a device decide together unless the request says otherwise, and the host waits for signals alone.
void a_policy_decides_on_the_device(const std::string& name) {
    const soda::Bundle bundle(golden + "/" + name, device("cuda"));
    const soda_info info = bundle.info();
    soda::Session session = bundle.session();
    soda::Session cpu = soda::Bundle(golden + "/" + name, device("cpu")).session();
    const auto expected = cpu.generate(request_for(info).vote("any"));
    const auto decisions = cpu.decisions();
    CHECK(play(session, info) == expected && session.decisions() == decisions);
    const OnDevice room(expected.size() * 4);
    session.to_device("latents", room.address(), room.bytes());
    finish();
    CHECK(room.floats() == expected);
    clear_log();
    const auto given = request_for(info).decisions(decisions).vote("any");
    session.run(given);  // all is open and bound, and nothing is to be heard
    for (const auto& line : log_lines()) CHECK(line != "malloc" && line != "copy out" && line != "synchronize");
    CHECK(session.latents() == expected);
    const auto alone = request_for(info).vote("sample");
    CHECK(session.generate(alone) == cpu.generate(request_for(info)) && session.decisions() == cpu.decisions());
    CHECK(says(refusal([&] { session.to_device("latents", room.address(), room.bytes()); }), "give vote='any'"));
    Twin twin(info, 2);
    session.run(twin.device);
    CHECK(session.latents() == cpu.generate(twin.host.vote("any")));
    CHECK(says(refusal([&] { session.start(twin.device.vote("sample")); }), "of tensors on a device"));
}

void a_session_moves_with_its_request() {
    const soda::Bundle bundle(golden + "/v3", device("cuda"));
    int seen = 0;
    auto session = std::make_unique<soda::Session>(bundle.session());
    session->start(request_for(bundle.info()).progress([&](int, int) { return ++seen, false; }));
    auto moved = std::make_unique<soda::Session>(std::move(*session));
    session.reset();
    moved->step(0);
    CHECK(seen == 1);
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
    const auto goes = [](const char* name) { return [name] { device_memory_goes_in_and_out_without_the_host(name); }; };
    return run_tests({
        {"v2 plays as on the CPU, nothing waits between steps", plays("v2")},
        {"v3 plays as on the CPU, nothing waits between steps", plays("v3")},
        {"v3-text plays as on the CPU, nothing waits between steps", plays("v3-text")},
        {"v5 plays as on the CPU, nothing waits between steps", plays("v5")},
        {"v5-text plays as on the CPU, nothing waits between steps", plays("v5-text")},
        {"what is allocated is freed", what_is_allocated_is_freed},
        {"v3: device memory goes in and out without the host", goes("v3")},
        {"v3-text: device memory goes in and out without the host", goes("v3-text")},
        {"what is on its way is not overwritten", what_is_on_its_way_is_not_overwritten},
        {"threads share the stream", threads_share_the_stream},
        {"device memory that does not fit is refused", device_memory_that_does_not_fit_is_refused},
        {"v5-policy: a policy decides on the device", [] { a_policy_decides_on_the_device("v5-policy"); }},
        {"v5-sada: a policy decides on the device", [] { a_policy_decides_on_the_device("v5-sada"); }},
        {"a session moves with its request", a_session_moves_with_its_request},
        {"the caller's stream is used, and left", the_callers_stream_is_used_and_left},
        {"devices that are not there are refused", devices_that_are_not_there_are_refused},
    });
}
