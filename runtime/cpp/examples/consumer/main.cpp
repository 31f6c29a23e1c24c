// Says what a bundle is, and plays it once where it is conditioned on labels.  consumer BUNDLE [BACKEND]
#include <cstdio>
#include <soda_runtime.hpp>

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s BUNDLE [BACKEND]\n", argv[0]);
        return 2;
    }
    try {
        soda::OpenOptions options;
        options.backend = argc > 2 ? argv[2] : "";
        const soda::Bundle bundle(argv[1], options);
        const soda_info info = bundle.info();
        std::printf("%s: %d steps on %s\n", info.name, info.steps, info.backend);
        if (info.condition != SODA_LABELS) return 0;
        const auto latents = bundle.session().generate(soda::Request().labels({0}).seed(1));
        std::printf("%zu latents, the first is %g\n", latents.size(), static_cast<double>(latents[0]));
    } catch (const soda::RuntimeError& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return error.status() / 100;
    }
}
