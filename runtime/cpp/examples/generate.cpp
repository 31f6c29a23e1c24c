// Generate with a bundle of labels or embeddings and write each image, or frame of a video, as a PNG file, with libpng.
//     generate BUNDLE OUT_PREFIX [LABEL,LABEL,.. or EMBEDS.safetensors] [SEED]
#include <png.h>

#include <cstdio>
#include <cstring>
#include <sstream>

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

// shape: height, width, channels.
void write_png(const std::string& path, const uint8_t* pixels, const int64_t* shape) {
    if (shape[2] != 1 && shape[2] != 3) throw std::runtime_error("images of other than 1 or 3 channels");
    png_image image;
    std::memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    image.height = static_cast<png_uint_32>(shape[0]);
    image.width = static_cast<png_uint_32>(shape[1]);
    image.format = shape[2] == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    if (!png_image_write_to_file(&image, path.c_str(), 0, pixels, 0, nullptr))
        throw std::runtime_error(path + ": " + image.message);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s BUNDLE OUT_PREFIX [LABELS or EMBEDS.safetensors] [SEED]\n", argv[0]);
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
        else
            request.embeds_file(condition);
        request.seed(argc > 4 ? number(argv[4]) : 0);
        session.generate(request);
        const std::vector<uint8_t> pixels = session.result_rgb();
        const int64_t* shape = info.result_axes + (info.result == SODA_VIDEO);  // of one frame
        const size_t size = static_cast<size_t>(shape[0] * shape[1] * shape[2]);
        for (size_t i = 0; i < pixels.size() / size; ++i)
            write_png(argv[2] + std::to_string(i) + ".png", pixels.data() + i * size, shape);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
