// What one request does on the golden bundles and one backend: steps, progress, cancelling, policies, inputs, starts.
//     test_request [backend]      default: null
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "golden_request.hpp"

namespace {

void a_request_is_its_steps_and_the_next_one_starts_anew() {
    soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
    const auto whole = session.generate(request());
    session.start(request());
    for (int i = 0; i < 10; ++i) session.step(i);
    CHECK(session.latents() == whole);
    CHECK(session.generate(request(2)) != whole);
    if (backend == "null") CHECK(session.generate(request().baseline()) == whole);  // it passes the noise on
    const auto pixels = session.images_rgb();
    const auto images = session.images();
    for (size_t i = 0; i < pixels.size(); ++i) CHECK(pixels[i] == uint8_t(images[i] * 255.0f + 0.5f));
}

void a_refused_request_leaves_the_one_in_progress() {
    soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
    const std::vector<float> initial(2 * 64, 0.5f), steps(10 * 2 * 64, 0.25f);
    int seen = 0;
    const auto counted = request().noise(initial, steps).progress([&](int, int) { return ++seen, false; });
    const auto expected = session.generate(counted);
    session.start(counted);
    session.step(0);
    CHECK(status_of([&] { session.start(soda::Request().labels({99})); }) == SODA_REQUEST_ERROR);
    soda::Session moved = std::move(session);  // what the request owns stays where it is
    for (int i = 1; i < 10; ++i) moved.step(i);
    CHECK(moved.latents() == expected && seen == 20);
}

void progress_counts_steps_and_cancels() {
    soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
    const auto expected = session.generate(request());
    std::vector<int> seen;
    CHECK(session.generate(
              request().progress([&](int done, int steps) { return seen.push_back(done), steps != 10; })) == expected);
    CHECK((seen == std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
    seen.clear();
    CHECK(status_of([&] {
              session.generate(request().progress([&](int done, int) { return seen.push_back(done), done == 4; }));
          }) == SODA_CANCELLED);
    CHECK(seen.size() == 4);
    CHECK(status_of([&] { session.latents(); }) == SODA_REQUEST_ERROR);
    CHECK(session.generate(request()) == expected);
    session.cancel();  // nothing in progress: no effect
    CHECK(session.generate(request()) == expected);
}

void another_thread_cancels_within_a_step() {
    soda::Session session = soda::Bundle(golden + "/v3", chosen()).session();
    const auto expected = session.generate(request());
    for (int round = 0; round < 20; ++round) {
        std::atomic<int> done{0};
        std::atomic<int> done_when_cancelled{-1};
        std::thread other([&] {
            while (done < 3) std::this_thread::yield();
            session.cancel();
            done_when_cancelled = done.load();
        });
        const auto status = status_of([&] {
            session.generate(request().progress([&](int steps, int) {
                done = steps;
                while (steps == 3 && done_when_cancelled < 0) std::this_thread::yield();
                return false;
            }));
        });
        other.join();
        CHECK(status == SODA_CANCELLED);
        CHECK(done == 3);
        CHECK(session.generate(request()) == expected);
    }
}

void a_policy_decides_and_is_replayed() {
    const soda::Bundle bundle(golden + "/v5-policy", chosen());
    const soda_info info = bundle.info();
    CHECK(std::string(info.policy) == "misfit" && info.num_actions == 2);
    soda::Session session = bundle.session();
    const auto latents = session.generate(request());
    const auto decisions = session.decisions();
    CHECK(decisions.size() == 2 * size_t(info.steps));
    CHECK(std::count(decisions.begin(), decisions.end(), 1) > 0 && decisions[0] == 0 && decisions[1] == 0);
    CHECK(session.generate(request().decisions(decisions)) == latents && session.decisions() == decisions);
    std::vector<int64_t> first_alone(static_cast<size_t>(info.steps));
    for (size_t i = 0; i < first_alone.size(); ++i) first_alone[i] = decisions[2 * i];
    session.generate(request().decisions(first_alone).vote("any"));
    for (size_t i = 0; i < decisions.size(); ++i) CHECK(session.decisions()[i] == first_alone[i / 2]);
    CHECK(session.generate(request().policy("full")) == session.generate(request().baseline()));
    CHECK(status_of([&] { session.decisions(); }) == SODA_REQUEST_ERROR);
    const auto refused = [&](const soda::Request& wrong) { return status_of([&] { session.start(wrong); }); };
    CHECK(refused(request().policy("fast")) == SODA_REQUEST_ERROR);
    CHECK(refused(request().policy("frozen").vote("any")) == SODA_REQUEST_ERROR);
    CHECK(refused(request().decisions({0, 1})) == SODA_REQUEST_ERROR);
    const soda::Session other = soda::Bundle(golden + "/v5", chosen()).session();
    CHECK(!*soda::Bundle(golden + "/v5", chosen()).info().policy);
    CHECK(status_of([&] { other.decisions(); }) == SODA_REQUEST_ERROR);
}

void decisions_are_read_in_c() {
    const soda::Bundle bundle(golden + "/v5-policy", chosen());
    soda::Session session = bundle.session();
    const soda::Request owner = request();
    soda_request given = owner.c_request(bundle.info());
    given.size = offsetof(soda_request, policy);  // an older application, whatever lies behind its struct
    given.policy = "fast";
    CHECK(soda_start(session.handle(), &given) == SODA_OK);
    int64_t decisions[2] = {5, 5};
    CHECK(soda_decisions(session.handle(), decisions, 0) == SODA_OK && decisions[0] == 5);  // no step yet
    session.step(0);
    CHECK(soda_decisions(session.handle(), decisions, 1) == SODA_REQUEST_ARGUMENT && decisions[0] == 5);
    CHECK(soda_decisions(session.handle(), decisions, 2) == SODA_OK && decisions[0] == 0 && decisions[1] == 0);
    CHECK(soda_decisions(session.handle(), nullptr, 2) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_decisions(nullptr, decisions, 2) == SODA_REQUEST_ARGUMENT);
    given = owner.c_request(bundle.info());
    given.policy = given.vote = nullptr;
    given.num_decisions = size_t(bundle.info().steps);
    CHECK(soda_start(session.handle(), &given) == SODA_REQUEST_ARGUMENT);
    given.num_decisions = 0;
    CHECK(soda_start(session.handle(), &given) == SODA_OK);
}

void ports_by_name_are_the_fields_that_stand_for_them() {
    const soda::Bundle bundle(golden + "/v4", chosen());
    soda::Session session = bundle.session();
    const auto expected = session.generate(soda::Request().labels({3, 7}).seed(5));
    CHECK(session.generate(soda::Request().input("labels", std::vector<int64_t>{3, 7}, 2).seed(5)) == expected);
    CHECK(session.result() == session.images());
    CHECK(session.result_rgb() == session.images_rgb());
    const auto ports = bundle.ports();
    CHECK(ports.size() == 3 && ports[0].name == std::string("labels") && ports[0].port == std::string("labels"));
    CHECK(ports[0].kind == SODA_LABEL && ports[0].most == 9 && ports[1].kind == SODA_NO_PORT);
    const auto slots = bundle.slots();
    CHECK(int32_t(slots.size()) == bundle.info().num_slots && slots[0].name == std::string("0.attn"));
    CHECK(slots[0].rank == 2 && slots[0].bytes % 256 == 0);
    const auto refused = [&](const soda::Request& wrong) { return status_of([&] { session.start(wrong); }); };
    const std::vector<int64_t> one{3};
    CHECK(refused(soda::Request().labels({3}).input("labels", one)) == SODA_REQUEST_ERROR);
    CHECK(refused(soda::Request().negative_input("labels", one)) == SODA_REQUEST_ERROR);
    CHECK(refused(soda::Request().input("labels", one, 2)) == SODA_REQUEST_ARGUMENT);
    CHECK(refused(soda::Request().input("labels", one, -1)) == SODA_REQUEST_ERROR);
    CHECK(refused(soda::Request().input("state", one)) == SODA_REQUEST_ERROR);
    CHECK(refused(soda::Request().input_on_device("labels", one.data(), 8)) == SODA_REQUEST_ARGUMENT);
    CHECK(session.generate(soda::Request().labels({3, 7}).seed(5)) == expected);
}

void chunks_are_the_video_in_order() {
    const soda::Bundle bundle(golden + "/v5-chunks", chosen());
    const soda_info info = bundle.info();
    CHECK(info.num_chunks == 3 && info.first_chunk_frames == 1 && info.chunk_frames == 4);
    soda::Session session = bundle.session();
    session.run(soda::Request().labels({3}).seed(5));
    const std::vector<float> whole = session.result();
    const std::vector<uint8_t> bytes = session.result_rgb();
    std::vector<float> joined;
    std::vector<uint8_t> joined_bytes;
    for (int32_t i = 0; i < info.num_chunks; ++i) {
        const auto chunk = session.result_chunk(i);
        joined.insert(joined.end(), chunk.begin(), chunk.end());
    }
    for (int32_t i = 0; i < info.num_chunks; ++i) {
        const auto chunk = session.result_chunk_rgb(i);
        joined_bytes.insert(joined_bytes.end(), chunk.begin(), chunk.end());
    }
    CHECK(joined == whole && joined_bytes == bytes);
    CHECK(status_of([&] { session.result_chunk(1); }) == SODA_REQUEST_ERROR);  // 0 begins anew
    CHECK(status_of([&] { session.result_chunk(3); }) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_result_chunk(session.handle(), 0, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    CHECK(soda_result_chunk_rgb(nullptr, 0, nullptr, 0) == SODA_REQUEST_ARGUMENT);
    soda::Session images = soda::Bundle(golden + "/v4", chosen()).session();
    images.run(request());
    CHECK(status_of([&] { images.result_chunk(0); }) == SODA_REQUEST_ERROR);
}

void text_is_given_by_name() {
    soda::Session session = soda::Bundle(golden + "/v4-text", chosen()).session();
    const std::vector<float> embeds(8 * 16, 0.5f);
    const std::vector<int64_t> mask(8, 1), ids(8, 2);
    const auto expected =
        session.generate(soda::Request().embeds(embeds, mask).negative_embeds(embeds, mask).samples(2).seed(3));
    const auto named = soda::Request()
                           .input("embeds", embeds)
                           .negative_input("embeds", embeds)
                           .input("attention_mask", mask)
                           .negative_input("attention_mask", mask)
                           .samples(2)
                           .seed(3);
    CHECK(session.generate(named) == expected);
    const auto tokens = session.generate(soda::Request().token_ids(ids, mask).negative_token_ids(ids, mask).seed(3));
    const auto masks = soda::Request().input("attention_mask", mask).negative_input("attention_mask", mask).seed(3);
    CHECK(session.generate(soda::Request(masks).input("input_ids", ids).negative_input("input_ids", ids)) == tokens);
    CHECK(status_of([&] { session.start(soda::Request(named).input("input_ids", ids)); }) == SODA_REQUEST_ERROR);
    CHECK(status_of([&] { session.start(masks); }) == SODA_REQUEST_ERROR);
}

void a_request_starts_from_latents() {
    soda::Session session = soda::Bundle(golden + "/v5-start", chosen()).session();
    const soda_info info = soda::Bundle(golden + "/v5-start", chosen()).info();
    CHECK(info.takes_start_latents == 1 && info.steps == 8);
    const size_t one = size_t(info.latent_shape[0] * info.latent_shape[1] * info.latent_shape[2]);
    const std::vector<float> clean(one, 0.25f), both(2 * one, 0.25f);
    const auto started = session.generate(request().start_at_step(clean, 3));
    CHECK(started.size() == 2 * one);
    CHECK(session.generate(request().start_at_step(both, 3)) == started);
    CHECK(session.generate(request().start_with_strength(clean, 0.7)) == started);  // 5 of 8 steps
    CHECK(session.generate(request().start_at_step(clean, 4)) != started);
    CHECK(session.generate(request()) != started);
    session.start(request().start_at_step(clean, 6));
    CHECK(status_of([&] { session.step(0); }) == SODA_REQUEST_ERROR);
    session.step(6);
    session.step(7);
    const auto refused = [&](const soda::Request& wrong) {
        return status_of([&] { session.start(wrong); }) == SODA_REQUEST_ERROR;
    };
    CHECK(refused(request().start_at_step(clean, 8)));
    CHECK(refused(request().start_at_step(clean, -1)));
    CHECK(refused(request().start_with_strength(clean, 0.0)));
    CHECK(refused(request().start_with_strength(clean, 0.1)));
    CHECK(refused(request().start_at_step(std::vector<float>(3 * one), 1).samples(2)));
    soda_status status = SODA_OK;
    try {
        session.start(request().start_at_step(std::vector<float>(one - 1), 1));
    } catch (const soda::RuntimeError& error) {
        status = error.status();
    }
    CHECK(status == SODA_REQUEST_ARGUMENT);
    soda::Session older = soda::Bundle(golden + "/v5", chosen()).session();
    const soda_info of_older = soda::Bundle(golden + "/v5", chosen()).info();
    CHECK(of_older.takes_start_latents == 0);
    CHECK(status_of([&] { older.start(request().start_at_step(clean, 1)); }) == SODA_REQUEST_ERROR);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) backend = argv[1];
    return run_tests({
        {"a request is its steps, and the next one starts anew", a_request_is_its_steps_and_the_next_one_starts_anew},
        {"a refused request leaves the one in progress", a_refused_request_leaves_the_one_in_progress},
        {"progress counts steps and cancels", progress_counts_steps_and_cancels},
        {"another thread cancels within a step", another_thread_cancels_within_a_step},
        {"ports by name are the fields that stand for them", ports_by_name_are_the_fields_that_stand_for_them},
        {"chunks are the video, in order", chunks_are_the_video_in_order},
        {"text is given by name", text_is_given_by_name},
        {"a request starts from latents", a_request_starts_from_latents},
        {"a policy decides, and is replayed", a_policy_decides_and_is_replayed},
        {"decisions are read in C", decisions_are_read_in_c},
    });
}
