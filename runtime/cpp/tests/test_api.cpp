// The C ABI and its C++ wrapper on the golden bundles and one backend: misuse, structs, threads, leaks.
//     test_api [backend] [opens]      default: null, which is opened and closed 20 times
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "golden_request.hpp"

namespace {

int opens = 20;

void null_handles_are_refused() {
    soda_bundle* bundle = nullptr;
    soda_session* session = nullptr;
    soda_info info{};
    info.size = sizeof info;
    CHECK(soda_bundle_open(nullptr, nullptr, &bundle) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_bundle_open(golden.c_str(), nullptr, nullptr) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_bundle_info(nullptr, &info) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_bundle_port(nullptr, 0, 0, nullptr) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_bundle_step(nullptr, 0, nullptr) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_session_open(nullptr, &session) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_generate(nullptr, nullptr, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_start(nullptr, nullptr) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_step(nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_latents(nullptr, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_images(nullptr, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_images_rgb(nullptr, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_reset(nullptr) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_noise(0, 0, 0, nullptr, 1) == SODA_REQUEST_ARGUMENT);
    soda_cancel(nullptr);
    soda_bundle_close(nullptr);
    soda_session_close(nullptr);
}

void structs_of_other_sizes_are_read_or_refused() {
    soda::Bundle bundle(golden + "/v3", chosen());
    soda_info info{};
    CHECK(soda_bundle_info(bundle.handle(), &info) == SODA_REQUEST_ARGUMENT);
    info.size = offsetof(soda_info, steps);  // an older application
    info.steps = -5;
    CHECK(soda_bundle_info(bundle.handle(), &info) == SODA_OK);
    CHECK(info.latent_shape[1] == 8 && info.steps == -5);
    struct {
        soda_request request;
        int64_t more;
    } newer{};
    const soda::Request owner = request();
    newer.request = owner.c_request(bundle.info());
    newer.request.size = sizeof newer;
    soda::Session session = bundle.session();
    CHECK(soda_start(session.handle(), &newer.request) == SODA_OK);
    newer.more = 1;  // what this library does not know must not be asked for
    CHECK(soda_start(session.handle(), &newer.request) == SODA_REQUEST_ARGUMENT);
}

void errors_have_their_families() {
    CHECK(status_of([] { soda::Bundle("/nowhere"); }) == SODA_BUNDLE_ERROR);
    soda::OpenOptions unknown;
    unknown.backend = "tpu";
    CHECK(status_of([&] { soda::Bundle(golden + "/v3", unknown); }) == SODA_ENGINE_MISSING);
    unknown.backend = "../null";
    CHECK(status_of([&] { soda::Bundle(golden + "/v3", unknown); }) == SODA_ENGINE_MISSING);
    unknown.backend = backend;
    unknown.backends_folder = "/nowhere";
    CHECK(status_of([&] { soda::Bundle(golden + "/v3", unknown); }) == SODA_ENGINE_MISSING);
    soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
    CHECK(status_of([&] { session.latents(); }) == SODA_REQUEST_ERROR);
    CHECK(status_of([&] { session.start(soda::Request()); }) == SODA_REQUEST_ERROR);
    CHECK(status_of([&] { session.start(soda::Request().labels({10})); }) == SODA_REQUEST_ERROR);
    CHECK(status_of([&] { session.start(soda::Request().labels({1}).embeds({1.0f}, {1})); }) == SODA_REQUEST_ERROR);
    session.start(request());
    CHECK(status_of([&] { session.step(1); }) == SODA_REQUEST_ERROR);
    float one = 0;
    CHECK(soda_latents(session.handle(), &one, 1) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_images(session.handle(), &one, 1) == SODA_REQUEST_ARGUMENT);
    const soda::Request owner = request();
    const soda_request given = owner.c_request(soda::Bundle(golden + "/v3", chosen()).info());
    CHECK(soda_generate(session.handle(), &given, &one, 1) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_generate(session.handle(), &given, nullptr, 1) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_generate(session.handle(), &given, nullptr, 0) == SODA_OK);
    CHECK(session.latents().size() == 128);
    CHECK(status_of([] { soda::Bundle("/no\nwhere"); }) == SODA_BUNDLE_ERROR);
    CHECK(!std::strchr(soda_last_error(), '\n'));
}

void a_batch_that_no_memory_holds_leaves_the_session_usable() {
    soda::Session session = soda::Bundle(golden + "/v2-text", chosen()).session();
    const std::vector<float> embeds(8 * 16, 0.5f);
    const std::vector<int64_t> mask(8, 1);
    const auto text = soda::Request().embeds(embeds, mask).negative_embeds(embeds, mask).seed(3);
    const auto expected = session.generate(text);
    CHECK(session.generate(soda::Request(text).samples(3)).size() == 3 * expected.size());
    CHECK(status_of([&] { session.start(soda::Request(text).samples(65537)); }) == SODA_REQUEST_ERROR);
    CHECK(session.generate(text) == expected);
    CHECK(session.images().size() == 16 * 16 * 3);
}

void arrays_of_other_sizes_are_refused() {
    soda::Session text = soda::Bundle(golden + "/v2-text", chosen()).session();
    const std::vector<int64_t> mask(8, 1);
    const std::vector<float> embeds(8 * 16, 0.5f), longer(8 * 16 + 1, 0.5f);
    const auto refused = [&](const soda::Request& wrong) {
        try {
            text.start(wrong);
        } catch (const soda::RuntimeError& error) {
            return error.status() == SODA_REQUEST_ARGUMENT;
        }
        return false;
    };
    CHECK(refused(soda::Request().embeds(longer, mask).negative_embeds(embeds, mask)));
    CHECK(refused(soda::Request().embeds(embeds, mask).negative_embeds(longer, mask)));
    CHECK(refused(soda::Request().embeds(embeds, {1, 1}).negative_embeds(embeds, mask)));
    CHECK(refused(soda::Request().token_ids({1}, mask).negative_token_ids(mask, mask)));
    CHECK(refused(soda::Request().embeds(embeds, mask).negative_embeds(embeds, mask).noise(embeds)));
}

void sixteen_threads_generate_as_one_does() {
    const soda::Bundle bundle(golden + "/v3", chosen());
    std::vector<std::vector<float>> serial(16), parallel(16);
    const auto play = [&](uint64_t seed) {
        soda::Session session = bundle.session();
        std::vector<float> all;
        for (uint64_t i = 0; i < 4; ++i) {
            const auto latents = session.generate(request(seed * 100 + i));
            all.insert(all.end(), latents.begin(), latents.end());
        }
        return all;
    };
    for (size_t i = 0; i < 16; ++i) serial[i] = play(i);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 16; ++i) threads.emplace_back([&, i] { parallel[i] = play(i); });
    for (auto& thread : threads) thread.join();
    CHECK(serial == parallel);
}

long resident_kilobytes() {
    std::ifstream file("/proc/self/statm");
    long pages = 0, resident = 0;
    file >> pages >> resident;
    return resident * 4;
}

void opening_and_closing_does_not_grow() {
    const auto open = [] {
        soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
        session.generate(request());
    };
    for (int i = 0; i < opens / 2; ++i) open();  // until allocators have what they keep
    const long before = resident_kilobytes();
    for (int i = 0; i < opens / 2; ++i) open();
    const long growth = resident_kilobytes() - before;
    std::printf("        %d times: %ld kB more in the second half\n", opens, growth);
    if (opens >= 100) CHECK(growth < SODA_GROWTH_KB);  // a few say nothing: allocators keep what they got
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) backend = argv[1];
    if (argc > 2) opens = std::atoi(argv[2]);
    CHECK(soda_abi_version() == SODA_ABI_VERSION);
    return run_tests({
        {"null handles are refused", null_handles_are_refused},
        {"structs of other sizes are read or refused", structs_of_other_sizes_are_read_or_refused},
        {"errors have their families", errors_have_their_families},
        {"a batch that no memory holds leaves the session usable",
         a_batch_that_no_memory_holds_leaves_the_session_usable},
        {"arrays of other sizes are refused", arrays_of_other_sizes_are_refused},
        {"sixteen threads generate as one does", sixteen_threads_generate_as_one_does},
        {"opening and closing does not grow", opening_and_closing_does_not_grow},
    });
}
