// Generate with a bundle and write each image, or frame of a video, as a PNG file.
//     generate BUNDLE OUT_PREFIX [LABEL,LABEL,.. or "A PROMPT" or EMBEDS.safetensors] [SEED]
#include <cstdio>
#include <sstream>

#include "png.hpp"
#include "soda_runtime.hpp"

namespace {

uint64_t number(const std::string& text) {
    size_t end = 0;
    const bool digit = !text.empty() && text[0] >= '0' && text[0] <= '9' && text.size() < 20;
    const uint64_t value = digit ? std::stoull(text, &end) : 0;
    if (!digit || end != text.size()) throw std::runtime_error("'" + text + "' is not a whole number");
    return value;
}

std::vector<int64_t> parse_labels(const std::string& text) {
    std::vector<int64_t> labels;
    std::istringstream stream(text);
    for (std::string each; std::getline(stream, each, ',');) labels.push_back(static_cast<int64_t>(number(each)));
    return labels;
}

bool is_file(const std::string& text) {
    const std::string suffix = ".safetensors";
    return text.size() > suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s BUNDLE OUT_PREFIX [LABELS, PROMPT or EMBEDS.safetensors] [SEED]\n", argv[0]);
        return 2;
    }
    try {
        const soda::Bundle bundle(argv[1]);
        const soda_info info = bundle.info();
        soda::Session session = bundle.session();
        const std::string condition = argc > 3 ? argv[3] : "0";
        soda::Request request;
        if (info.condition == SODA_LABELS)
            request.labels(parse_labels(condition));
        else if (is_file(condition))
            request.embeds_file(condition);
        else
            request.prompt(condition);
        request.seed(argc > 4 ? number(argv[4]) : 0);
        session.generate(request);
        for (const soda::Truncation& cut : session.truncated())
            std::fprintf(stderr, "the model reads %d tokens; the prompt loses: %s\n", cut.max_tokens, cut.lost.c_str());
        const std::vector<uint8_t> pixels = session.result_rgb();
        const int64_t* shape = info.result_axes + (info.result == SODA_VIDEO);  // of one frame
        const size_t size = static_cast<size_t>(shape[0] * shape[1] * shape[2]);
        for (size_t i = 0; i < pixels.size() / size; ++i)
            png::write(argv[2] + std::to_string(i) + ".png", pixels.data() + i * size, shape);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
