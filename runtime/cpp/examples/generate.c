/* Generate with a bundle and write the images as one PPM or PGM file.
 *     generate BUNDLE OUT [LABEL or EMBEDS.safetensors] [SEED] [BACKEND] */
#include <stdio.h>
#include <stdlib.h>

#include "soda_runtime.h"

static void demand(soda_status status) {
    if (status == SODA_OK) return;
    fprintf(stderr, "error %d: %s\n", (int)status, soda_last_error());
    exit(2);
}

static uint64_t number(const char *text) {
    unsigned long long value;
    char more;
    if (sscanf(text, "%llu%c", &value, &more) == 1) return value;
    fprintf(stderr, "'%s' is not a whole number\n", text);
    exit(2);
}

static int32_t show_progress(void *user, int32_t done, int32_t steps) {
    (void)user;
    fprintf(stderr, "\rstep %d of %d%s", (int)done, (int)steps, done == steps ? "\n" : "");
    return 0; /* anything else cancels */
}

/* Of each sample, how many steps computed; the others did what the bundle's policy has instead. */
static void show_decisions(soda_session *session, int32_t samples, int32_t steps) {
    const size_t count = (size_t)samples * (size_t)steps;
    int64_t *actions = malloc(count * sizeof *actions);
    demand(actions ? soda_decisions(session, actions, count) : SODA_ENGINE_MEMORY);
    for (int32_t b = 0; b < samples; ++b) {
        int computed = 0;
        for (int32_t i = 0; i < steps; ++i) computed += actions[i * samples + b] == 0;
        fprintf(stderr, "sample %d: %d of %d steps computed\n", (int)b, computed, (int)steps);
    }
    free(actions);
}

int main(int argc, char **argv) {
    soda_open_options options = SODA_INIT(soda_open_options);
    soda_request request = SODA_INIT(soda_request);
    soda_info info = SODA_INIT(soda_info);
    soda_bundle *bundle;
    soda_session *session;
    if (argc < 3)
        return fprintf(stderr, "usage: %s BUNDLE OUT [LABEL or EMBEDS.safetensors] [SEED] [BACKEND]\n", argv[0]), 2;
    options.backend = argc > 5 ? argv[5] : NULL;
    demand(soda_bundle_open(argv[1], &options, &bundle));
    demand(soda_bundle_info(bundle, &info));
    demand(soda_session_open(bundle, &session));
    soda_bundle_close(bundle); /* the session keeps it */

    const int is_label = info.condition == SODA_LABELS;
    const int64_t label = argc > 3 && is_label ? (int64_t)number(argv[3]) : 0;
    request.labels = is_label ? &label : NULL, request.num_labels = is_label;
    request.embeds_file = argc > 3 && !is_label ? argv[3] : NULL;
    request.seed = argc > 4 ? number(argv[4]) : 0, request.progress = show_progress;
    demand(soda_start(session, &request));
    for (int32_t i = 0; i < info.steps; ++i) demand(soda_step(session, i));

    const int64_t height = info.image_shape[0], width = info.image_shape[1], channels = info.image_shape[2];
    int32_t samples = 0;
    demand(soda_progress_of(session, &samples, NULL));
    if (*info.policy) show_decisions(session, samples, info.steps);
    const size_t bytes = (size_t)(samples * height * width * channels);
    uint8_t *pixels = malloc(bytes + 1);
    demand(pixels ? soda_images_rgb(session, pixels, bytes) : SODA_ENGINE_MEMORY);
    FILE *file = fopen(argv[2], "wb");
    if (!file || fprintf(file, "P%d %d %d 255\n", channels == 3 ? 6 : 5, (int)width, (int)(samples * height)) < 0 ||
        fwrite(pixels, 1, bytes, file) != bytes || fclose(file))
        return perror(argv[2]), 1;
    free(pixels);
    soda_session_close(session);
    return 0;
}
