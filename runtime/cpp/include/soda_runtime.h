/* soda_runtime: open a bundle made by soda-export and play it. C ABI; soda_runtime.hpp wraps it for C++.
 *
 * Ownership. What a soda_*_open function gives belongs to the caller, who hands it to the matching soda_*_close.
 * Strings and arrays that a query gives belong to the bundle and live until its last handle (sessions count) is
 * closed. Everything passed in is read during the call and not kept, unless it says otherwise.
 *
 * Threads. A bundle may be used by any number of threads, a session by one call at a time: a call that comes while
 * another is under way fails with SODA_REQUEST_ERROR, closing waits for it, and soda_cancel may come at any time. All
 * functions take null handles: they fail with SODA_REQUEST_ARGUMENT, or do nothing (close, cancel).
 *
 * Forks. Handles belong to the process that opened them. In a fork of it calls fail with SODA_ENGINE_ERROR before
 * anything runs, and closing does nothing.
 *
 * Structs that begin with `size` may grow at their end. Fill them with SODA_INIT(type) in C, or zeros and sizeof. */
#ifndef SODA_RUNTIME_H
#define SODA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define SODA_API
#else
#define SODA_API __attribute__((visibility("default")))
#endif

#define SODA_ABI_VERSION 1

/* Status codes. A family is a code rounded down to hundreds; families are those of the Python runtime's errors. */
typedef int32_t soda_status;
#define SODA_FAMILY(status) ((status) / 100 * 100)
enum {
    SODA_OK = 0,
    SODA_BUNDLE_ERROR = 100,     /* incomplete, damaged or hostile: copy or build the bundle again */
    SODA_BUNDLE_VERSION = 101,   /* a format version that this library does not read */
    SODA_ENGINE_ERROR = 200,     /* an engine library refuses a program, or failed while running one */
    SODA_ENGINE_MISSING = 201,   /* the backend or its engine library is not there */
    SODA_ENGINE_MEMORY = 202,    /* memory for the request cannot be had: use a smaller batch */
    SODA_REQUEST_ERROR = 300,    /* the request does not fit the bundle */
    SODA_REQUEST_ARGUMENT = 301, /* a null pointer, a struct of another size, a buffer that is too small */
    SODA_CANCELLED = 400,        /* by soda_cancel or the progress callback */
    SODA_INTERNAL_ERROR = 900    /* a bug in the library */
};

typedef struct soda_bundle soda_bundle;
typedef struct soda_session soda_session;

/* Fits SODA_ABI_VERSION of the header that an application was compiled with: equal, or it must not go on. */
SODA_API uint32_t soda_abi_version(void);
/* "0.1.0"; static. */
SODA_API const char *soda_version(void);
/* What went wrong in this thread's last call that failed, in one line of UTF-8; "" before any. Owned by the library,
 * valid until the thread's next call that fails. */
SODA_API const char *soda_last_error(void);

/* ---- bundles ---- */

/* A LoRA file that is added to the weights: .safetensors under the key names of diffusers, PEFT or kohya's scripts, or
 * the folder that PEFT or diffusers saved it in. */
typedef struct soda_lora {
    size_t size;
    const char *path;
    double strength; /* 1: as it was trained; 0: none of it */
} soda_lora;

typedef struct soda_open_options {
    size_t size;
    const char *backend;         /* "ort", "openvino", "trt", "null"; NULL or "": the one the bundle was built for */
    const char *device;          /* "cpu", "cuda", "cuda:1"; NULL or "": "cpu" */
    const char *backends_folder; /* where libsoda_runtime_<backend>.so is; NULL or "": $SODA_RUNTIME_BACKENDS, else
                                    beside this library */
    const char *engine_library;  /* path of the engine library itself; NULL or "": as it was built, else as installed */
    int32_t threads;             /* of the engine library, at most 1024; 0 lets it choose */
    void *cuda_stream;           /* where work is put on a CUDA device; NULL: a stream of the bundle's own. The caller
                                    keeps it until the last handle is closed */
    const soda_lora *loras;      /* [num_loras], all of one size */
    int32_t num_loras;
    int32_t preload;             /* 1: open all engines at once, those of every size; 0: each when it is first needed */
} soda_open_options;

/* Check and open the bundle folder. options may be NULL. *bundle is NULL where it fails. */
SODA_API soda_status soda_bundle_open(const char *folder, const soda_open_options *options, soda_bundle **bundle);
/* Give the LoRA files that the bundle was opened with other strengths, [count], one for each. Sessions take them from
 * their next request on, for which they open the engines anew whose weights have changed. */
SODA_API soda_status soda_bundle_set_lora_strengths(soda_bundle *bundle, const double *strengths, int32_t count);
/* Sessions of the bundle stay usable: the last handle closed frees it. */
SODA_API void soda_bundle_close(soda_bundle *bundle);
/* Size `index` of the bundle in pixels, 0 being that of the handle that soda_bundle_open gives;
 * SODA_REQUEST_ARGUMENT past the last one. */
SODA_API soda_status soda_bundle_size(const soda_bundle *bundle, int32_t index, int32_t *height, int32_t *width);
/* A handle of the same bundle at one of its sizes: queries tell of that size, and sessions play it. Engines and weights
 * are those of `bundle`, which may be closed before. SODA_REQUEST_ERROR for a size that is not there. */
SODA_API soda_status soda_bundle_at(const soda_bundle *bundle, int32_t height, int32_t width, soda_bundle **sized);

/* What a request's fields must have: `labels`; a prompt's `embeds` and `token_mask`, or its tokens; or values of other
 * ports, by name in `inputs` (scalars may be given besides in all cases). */
enum {
    SODA_LABELS = 0,
    SODA_TEXT = 1,
    SODA_PORTS = 2
};
enum {
    SODA_NO_RESULT = 0,
    SODA_IMAGE = 1,
    SODA_VIDEO = 2,
    SODA_AUDIO = 3
};
typedef struct soda_info {
    size_t size;
    const char *name, *family, *backend, *precision; /* of the model, of the engine library in use, "fp32" .. */
    int64_t latent_shape[3]; /* channels, height, width of one sample's latents; 1, 1 and the number of their
                                values where they have another number of axes */
    int64_t image_shape[3];  /* height, width, channels of one image; zeros: no images */
    int32_t steps;
    int32_t condition;                /* SODA_LABELS, SODA_TEXT or SODA_PORTS */
    int32_t num_classes;              /* labels are 0 .. num_classes - 1; 0 where the condition is others */
    int32_t max_tokens, embed_width;  /* of a prompt; 0 where the condition is others */
    int32_t takes_tokens;             /* 1: has a text encoder, which takes token ids in place of embeddings */
    int32_t has_guidance, stochastic; /* 1: takes a guidance scale and negative prompts; noise at every step */
    double guidance;                  /* scale used where a request names none */
    void *cuda_stream;                /* where work is put on a CUDA device; NULL: it runs on the CPU */
    int32_t latent_rank;              /* 1 .. 4 axes of one sample's latents */
    int64_t latent_axes[4];           /* the first latent_rank of them */
    int32_t result;                   /* SODA_IMAGE ..: what soda_result gives */
    int32_t result_rank;              /* axes of one sample of it: */
    int64_t result_axes[4];           /* height, width, channels; frames and these; channels and length of sound */
    double result_rate;               /* frames of a video, or values of sound, in a second; else 0 */
    int32_t num_slots;                /* values that steps keep for later ones */
    int32_t takes_start_latents, inpaints; /* 1: takes start_latents; keeps them where the port `mask` is 0 */
    const char *policy;                    /* name of the bundle's policy; "": it has none */
    int32_t num_actions;                   /* of the policy; 0 computes everything */
    int32_t num_chunks, first_chunk_frames, chunk_frames; /* of a video; frames of the first chunk and of each other */
    int32_t takes_prompts;                                /* 1: has tokenizers */
    int32_t num_sizes; /* of the bundle (soda_bundle_size); 0 for sound, and for latents of a bundle of one size */
} soda_info;
/* info->size is set by the caller; fields beyond it are left out. */
SODA_API soda_status soda_bundle_info(const soda_bundle *bundle, soda_info *info);

enum {
    SODA_FLOAT32 = 0,
    SODA_FLOAT16 = 1,
    SODA_BFLOAT16 = 2,
    SODA_INT64 = 3
};
enum {
    SODA_INPUTS = 0,
    SODA_OUTPUTS = 1
};
enum {
    SODA_NO_PORT = 0,   /* noise, or an output */
    SODA_LABEL = 1,     /* int64, least .. most */
    SODA_TOKEN_IDS = 2, /* int64, within the tokenizer's vocabulary */
    SODA_MASK = 3,      /* int64, 0 or 1 */
    SODA_EMBEDDING = 4, /* float32, finite */
    SODA_SCALAR = 5,    /* float32, least .. most; where it is not given, default_value */
    SODA_HINT = 6       /* float32, finite; the same in all rows of a sample, so it has no negative */
};
typedef struct soda_port {
    size_t size;
    const char *name; /* inputs: the fields of soda_request; outputs: "latents", and "images", "video" or "audio" */
    int32_t dtype, rank;
    int64_t shape[8];  /* -1: the number of samples */
    const char *port;  /* what soda_input calls an input, which may have no field and no `name` ("") */
    int32_t kind;      /* SODA_LABEL .. */
    int32_t negative;  /* 1: of the unconditional rows */
    int32_t tokenizer; /* of token ids and their mask: number of the tokenizer; else -1 */
    int32_t encoded;   /* 1: the bundle makes it of other inputs where it is not given */
    double least, most, default_value;
} soda_port;
/* Port `index` of the request's inputs or outputs; SODA_REQUEST_ARGUMENT past the last one. */
SODA_API soda_status soda_bundle_port(const soda_bundle *bundle, int32_t direction, int32_t index, soda_port *port);

typedef struct soda_slot {
    size_t size;
    const char *name;
    int32_t dtype, rank;
    int64_t shape[8]; /* of one row */
    int64_t bytes;    /* in the cache, for one sample */
} soda_slot;
/* Slot `index` of the cache; SODA_REQUEST_ARGUMENT past the last one. */
SODA_API soda_status soda_bundle_slot(const soda_bundle *bundle, int32_t index, soda_slot *slot);

typedef struct soda_step_info {
    size_t size;
    const char *file;               /* the program that the step runs */
    int32_t program, reads, writes; /* its number; cache slots that it reads and writes */
    double timestep;                /* the scheduler's value; for people */
    int64_t flops;                  /* for one sample; for people */
    int32_t full_steps; /* of a request that starts here: steps that the cache cannot serve; -1: none can start */
} soda_step_info;
SODA_API soda_status soda_bundle_step(const soda_bundle *bundle, int32_t index, soda_step_info *step);

/* ---- sessions ---- */

/* A session has a cache arena and sampler state of its own. It keeps the bundle alive. */
SODA_API soda_status soda_session_open(soda_bundle *bundle, soda_session **session);
/* Waits for a call that is under way. Nothing may be called afterwards. */
SODA_API void soda_session_close(soda_session *session);

/* Called in the generating thread after every step; anything but 0 cancels. It may call soda_progress_of, soda_latents,
 * soda_decisions, soda_result, soda_preview and theirs; to start, step, reset or close the session is refused. */
typedef int32_t (*soda_progress)(void *user, int32_t steps_done, int32_t steps);

/* An array of a request in memory of the bundle's CUDA device, in place of the field of its name, which is NULL. It
 * must be ready in the bundle's stream (soda_info.cuda_stream), is read in the stream's order, and stays as it is until
 * then. Its values are not looked at: that they are finite and in range is the caller's to see to. */
typedef struct soda_device_array {
    size_t size;
    const char *name; /* of an input, as soda_bundle_port gives it */
    const void *address;
    size_t bytes; /* there: at least the array's */
} soda_device_array;

/* Values of one port, which any bundle takes in place of the fields below. */
typedef struct soda_input {
    size_t size;
    const char *name;  /* of the port: soda_port.port */
    int32_t negative;  /* 1: of the unconditional rows */
    int32_t rows;      /* 1, or one for each sample */
    const void *data;  /* [rows, and the port's axes] of its dtype; the caller's */
    size_t bytes;      /* there: at least the array's */
    int32_t on_device; /* 1: data is memory of the bundle's CUDA device, as a soda_device_array's is */
} soda_input;

/* A request. Labels, or embeddings (in memory or in a file), or token ids: whichever the bundle takes. These fields are
 * the bundle's port of their kind (embeds: of more than one axis) where there is one alone, whatever its name; other
 * ports are given in `inputs`. So are the ids of several tokenizers, which may be those of other texts (prompt_2).
 * One sample's condition is repeated `samples` times; `samples` 0 takes their number. Arrays are dense, row-major,
 * the caller's, and read before soda_start or soda_generate returns (noise_steps: until the last step has run). */
typedef struct soda_request {
    size_t size;
    int32_t samples;
    int32_t baseline; /* 1: compute every module at every step, without the cache, as the policy "full" does */
    uint64_t seed;    /* ignored where noise_initial is given */
    double guidance;  /* read where has_guidance is 1 */
    int32_t has_guidance;
    int32_t num_labels;
    const int64_t *labels; /* [num_labels] */
    int32_t num_prompts;   /* of embeds or token_ids */
    int32_t num_negatives; /* 1 or num_prompts where the bundle has guidance */
    const float *embeds;   /* [num_prompts, max_tokens, embed_width], with token_mask */
    const float *negative_embeds;
    const int64_t *token_ids; /* [num_prompts, max_tokens], with token_mask */
    const int64_t *negative_token_ids;
    const int64_t *token_mask; /* [num_prompts, max_tokens] of 0 and 1 */
    const int64_t *negative_token_mask;
    const char *embeds_file;    /* safetensors: prompt_embeds F32, prompt_attention_mask, and both with negative_ */
    const float *noise_initial; /* [samples, the latents' axes]; NULL: made from the seed */
    const float *noise_steps;   /* [steps, samples, the latents' axes]; with noise_initial, where stochastic */
    soda_progress progress;     /* NULL: none */
    void *progress_user;
    const soda_device_array *device_arrays; /* [num_device_arrays], all of one size */
    int32_t num_device_arrays;
    int32_t num_inputs;
    const soda_input *inputs; /* [num_inputs], all of one size */
    const float *start_latents; /* [num_start_latents, the latents' axes], clean, to start from; NULL: from noise */
    int32_t num_start_latents;  /* 1, or one for each sample */
    int32_t start_step;         /* 0 .. steps - 1: the step that runs first; 0 where has_strength is 1 */
    int32_t has_strength;       /* 1: `strength` says where the run starts */
    double strength;            /* above 0, up to 1, as in diffusers' image-to-image pipelines */
    const char *policy; /* "frozen": the bundle's schedule; "adaptive": its policy, which decides as the run goes;
                           "full"; NULL or "": the policy where there is one and start_latents are not given */
    const char *vote;   /* who decides for an adaptive batch: "sample" (each for itself), "any" (a step is computed for
                           all where one needs it) or "mean"; NULL or "": "sample" on the CPU, "any" on a device */
    const int64_t *decisions; /* [steps] or [steps, samples]: actions to take in place of deciding; NULL: it decides */
    size_t num_decisions;     /* how many these are */
    /* Prompts in UTF-8, which are tokenized here, in place of token ids; a tokenizer that this library does not read is
     * refused. prompts_2 and prompts_3 are what the second and third text encoder get, as many; NULL: the prompts. */
    const char *const *prompts;          /* [num_texts] */
    const char *const *negative_prompts; /* [num_negative_texts], 1 or num_texts; NULL: the empty text */
    int32_t num_texts, num_negative_texts;
    const char *const *prompts_2, *const *negative_prompts_2;
    const char *const *prompts_3, *const *negative_prompts_3;
} soda_request;

/* A prompt whose end the model does not read. Its strings live until the session's next request. */
typedef struct soda_truncation {
    size_t size;
    const char *field;  /* "prompts", "negative_prompts_2" .. */
    int32_t sample;     /* the first one that has it */
    int32_t max_tokens; /* that the model reads, what the tokenizer adds included */
    const char *lost;   /* the text's end, without tokens */
} soda_truncation;

/* soda_start, every soda_step, soda_latents. latents: room for `count` floats, at least those of all samples; NULL with
 * count 0 leaves them for soda_to_device. */
SODA_API soda_status soda_generate(soda_session *session, const soda_request *request, float *latents, size_t count);
/* Begin a request, judged before anything changes; one in progress is dropped. */
SODA_API soda_status soda_start(soda_session *session, const soda_request *request);
/* Run step `index`; steps run in order, each once, from the one at which the request starts. */
SODA_API soda_status soda_step(soda_session *session, int32_t index);
/* Samples of the request in progress, and steps done: the one that runs next. Either pointer may be NULL. */
SODA_API soda_status soda_progress_of(const soda_session *session, int32_t *samples, int32_t *steps_done);
/* Latents [samples, their axes] after the steps run so far; SODA_ENGINE_ERROR where one is NaN or infinite. */
SODA_API soda_status soda_latents(soda_session *session, float *latents, size_t count);
/* What the steps so far of an adaptive request did, [steps so far, samples]: actions of the policy, 0 computed. */
SODA_API soda_status soda_decisions(const soda_session *session, int64_t *decisions, size_t count);
/* What is made of the latents after the steps run so far: images [samples, height, width, channels] or video [samples,
 * frames, height, width, channels] in 0 .. 1, or sound [samples, channels, length] in -1 .. 1. SODA_ENGINE_ERROR where
 * a value is NaN or infinite. */
SODA_API soda_status soda_result(soda_session *session, float *result, size_t count);
/* The same of images or video as bytes 0 .. 255 (raw RGB where there are 3 channels). */
SODA_API soda_status soda_result_rgb(soda_session *session, uint8_t *result, size_t count);
/* The clean latents ("x0") that the latest step's prediction stands for, [samples, their axes]; and what soda_result
 * and soda_result_rgb make of them. Costs nothing where it is not called. Refused before the first step, and where the
 * bundle or its sampler cannot say (BUNDLE.md, 8.7). */
SODA_API soda_status soda_preview(soda_session *session, float *latents, size_t count);
SODA_API soda_status soda_preview_result(soda_session *session, float *result, size_t count);
SODA_API soda_status soda_preview_result_rgb(soda_session *session, uint8_t *result, size_t count);
/* Chunk `index` of a video, [samples, its frames, height, width, channels], in memory that does not grow with the clip.
 * In order: 0 begins with the latents of that moment; a request, another result or soda_reset ends the sequence. */
SODA_API soda_status soda_result_chunk(soda_session *session, int32_t index, float *chunk, size_t count);
SODA_API soda_status soda_result_chunk_rgb(soda_session *session, int32_t index, uint8_t *chunk, size_t count);
/* soda_result and soda_result_rgb, refused where they are no images. */
SODA_API soda_status soda_images(soda_session *session, float *images, size_t count);
SODA_API soda_status soda_images_rgb(soda_session *session, uint8_t *images, size_t count);
/* Copy "latents", or "images", "video" or "audio" of a bundle with a decoder as [samples, (frames,) channels, height,
 * width] or [samples, channels, length], to `bytes` bytes of the bundle's CUDA device, in its stream. The host waits for
 * a video's latents alone. Refused where each of several samples decides for itself: theirs lie apart. */
SODA_API soda_status soda_to_device(soda_session *session, const char *output, void *address, size_t bytes);
/* Prompt `index` of those of the request in progress that were cut; SODA_REQUEST_ARGUMENT past the last one. */
SODA_API soda_status soda_truncated(const soda_session *session, int32_t index, soda_truncation *truncation);
/* Forget the request in progress; buffers stay allocated. */
SODA_API soda_status soda_reset(soda_session *session);
/* From any thread: the request in progress ends after the step that is running, with SODA_CANCELLED; the session takes
 * another. Without a request in progress it has no effect. */
SODA_API void soda_cancel(soda_session *session);

/* The noise that a seed stands for: `count` values of row `row` of the batch. stream: 0 for the initial noise, else
 * 1 + step. */
SODA_API soda_status soda_noise(uint64_t seed, uint32_t stream, uint32_t row, float *values, size_t count);

#ifdef __cplusplus
}
#else
#define SODA_INIT(type) {.size = sizeof(type)}
#endif
#endif
