/* What a backend's shared object offers to the library: one exported function that gives a table of functions.
 *
 * Only C types and status codes pass between the two, so neither exceptions nor a C++ standard library are shared.
 * Functions that give a status write one line about a failure to `message`. Handles are the backend's. A backend, its
 * engines and calls may be used by several threads; one call and one memory by one thread at a time. */
#ifndef SODA_BACKEND_ABI_H
#define SODA_BACKEND_ABI_H

#include <stdint.h>

#define SODA_BACKEND_ABI 4
#define SODA_BACKEND_ENTRY "soda_backend_table"
#define SODA_MAX_AXES 8

typedef struct SodaMessage {
    char text[2000];
} SodaMessage;

typedef struct SodaBackendOptions {
    const char *device;         /* "cpu" .. */
    const char *engine_library; /* path of the engine library, or "" */
    const char *precision;      /* of the bundle: "fp32", "fp16", "bf16" */
    int32_t threads;            /* 0: the library chooses */
    void *stream;               /* a CUDA stream of the caller's, or null */
} SodaBackendOptions;

/* An input or output of a program as the manifest states it; dims -1: any size. dtype as in soda_runtime.h. */
typedef struct SodaPort {
    const char *name;
    int32_t dtype, rank;
    int64_t dims[SODA_MAX_AXES];
    const char *slot; /* whose value it is; null: no slot's */
    int32_t age;      /* 0: the slot's latest value, 1: the one before it .. */
} SodaPort;

/* A tensor inside a memory, bound to an input or output. */
typedef struct SodaView {
    const char *name;
    void *memory;
    int64_t offset; /* bytes; a multiple of the dtype's size and of nothing else */
    int32_t dtype, rank;
    int64_t dims[SODA_MAX_AXES];
} SodaView;

/* A weight that stands in the place of the one of its name in the program's weights file. */
typedef struct SodaWeight {
    const char *name;
    const char *dtype; /* as safetensors spells it: "F32" .. */
    int32_t rank;
    int64_t dims[SODA_MAX_AXES];
    const void *data; /* stays where it is until the engine and its calls are closed */
    int64_t bytes;
} SodaWeight;

typedef struct SodaProgram {
    const char *path;
    const SodaPort *inputs, *outputs;
    int32_t num_inputs, num_outputs;
    int32_t once; /* 1: runs once a request, so memory matters more than speed */
    const SodaWeight *replaced; /* for the program to take where it has weights of these names */
    int32_t num_replaced;
    uint64_t replaced_version; /* 0: nothing is replaced; engines of one version are given the same weights */
} SodaProgram;

/* Of a backend whose memory can lie on a CUDA device. Everything is put into one stream, in order, and does not wait.
 */
typedef struct SodaDeviceTable {
    void *(*stream)(void *backend); /* null where this backend's memory is the host's: the others are not called */
    /* SODA_REQUEST_ARGUMENT unless `address` is memory of the device; `name` begins the message. */
    int32_t (*judge)(void *backend, const char *name, const void *address, SodaMessage *message);
    /* Room for so many bytes of `write` that are on their way at once, so that none of them waits. */
    int32_t (*reserve_writes)(void *backend, int64_t bytes, SodaMessage *message);
    int32_t (*copy_from)(void *memory, int64_t offset, const void *address, int64_t bytes, SodaMessage *message);
    int32_t (*copy_to)(void *memory, int64_t offset, void *address, int64_t bytes, SodaMessage *message);
} SodaDeviceTable;

typedef struct SodaBackendTable {
    uint32_t abi;
    int32_t (*open)(const SodaBackendOptions *options, void **backend, SodaMessage *message);
    void (*close)(void *backend);
    /* Zeroed, aligned to 256 bytes. write and read copy from and to the host. */
    int32_t (*allocate)(void *backend, int64_t bytes, void **memory, SodaMessage *message);
    void (*release)(void *memory);
    int32_t (*write)(void *memory, int64_t offset, const void *from, int64_t bytes, SodaMessage *message);
    int32_t (*read)(void *memory, int64_t offset, void *to, int64_t bytes, SodaMessage *message);
    /* Open one program and check that its inputs and outputs are those given. */
    int32_t (*open_engine)(void *backend, const SodaProgram *program, void **engine, SodaMessage *message);
    void (*close_engine)(void *engine);
    /* SODA_ENGINE_ERROR where engines of the bundle in `folder` cannot take other weights than its files'. */
    int32_t (*judge_replaced)(void *backend, const char *folder, SodaMessage *message);
    /* Fix all addresses. An input and an output may be the same place: the engine then updates it. `label` ("step 7")
     * begins the call's messages. */
    int32_t (*bind)(void *engine, const char *label, const SodaView *inputs, int32_t num_inputs,
                    const SodaView *outputs, int32_t num_outputs, void **call, SodaMessage *message);
    int32_t (*run)(void *call, SodaMessage *message);
    void (*unbind)(void *call);
    SodaDeviceTable device; /* nulls: memory is the host's */
} SodaBackendTable;

typedef const SodaBackendTable *(*SodaBackendEntry)(void);

#endif
