// What a request gives and what is made of its latents, out of a manifest of version 5: objects of several kinds.
#include "manifest_parts.hpp"

namespace soda {

RequestPort decode_port(const Field& field) {
    static const std::map<std::string, PortKind> kinds = {
        {"label", PortKind::label},         {"token_ids", PortKind::token_ids}, {"token_mask", PortKind::token_mask},
        {"embedding", PortKind::embedding}, {"mask", PortKind::mask},
        {"hint", PortKind::hint},           {"scalar", PortKind::scalar}};
    const PortKind kind =
        kinds.at(decode_kind(field, {"label", "token_ids", "token_mask", "embedding", "mask", "hint", "scalar"}));
    const bool tokens = kind == PortKind::token_ids || kind == PortKind::token_mask;
    if (kind == PortKind::label)
        field.object({"kind", "name", "dtype", "shape", "num_classes", "null_class"});
    else if (kind == PortKind::scalar)
        field.object({"kind", "name", "dtype", "shape", "default", "least", "most"});
    else if (tokens)
        field.object({"kind", "name", "dtype", "shape", "tokenizer"});
    else
        field.object({"kind", "name", "dtype", "shape"});
    RequestPort port{field["name"].string(), field["dtype"].one_of({"float32", "int64"}), field["shape"].integers(),
                     kind};
    if (kind == PortKind::label) {
        port.num_classes = field["num_classes"].integer();
        port.null_class = field["null_class"].integer();
    }
    if (tokens) port.tokenizer = field["tokenizer"].integer();
    if (kind == PortKind::scalar) {
        port.default_value = field["default"].number();
        port.least = field["least"].number();
        port.most = field["most"].number();
    }
    return port;
}

Tokenizer decode_tokenizer(const Field& field) {
    field.object({"file", "max_tokens", "clean", "pad_id"});
    return {field["file"].string(), field["max_tokens"].integer(),
            field["clean"].one_of({"lower-strip", "strip", "unescape-collapse", "none"}), field["pad_id"].integer()};
}

static Chunk decode_chunk(const Field& field) {
    field.object({"file", "latent_frames", "frames"});
    return {field["file"].string(), field["latent_frames"].integer(), field["frames"].integer()};
}

static Carry decode_carry(const Field& field) {
    field.object({"name", "dtype", "shape"});
    return {field["name"].string(), field["dtype"].one_of({"float32", "float16", "bfloat16"}),
            field["shape"].integers()};
}

FinishProgram decode_finish(const Field& field) {
    const std::string kind = decode_kind(field, {"image", "video", "audio"});
    FinishProgram program{};
    if (kind == "image") {
        field.object({"kind", "file", "weights", "shape"});
        program.kind = ResultKind::image;
        program.shape = field["shape"].integers(3);
    } else if (kind == "video") {
        field.object({"kind", "file", "weights", "shape", "frames_per_second", "latent_frames", "frames", "first",
                      "carry"});
        program.kind = ResultKind::video;
        program.shape = field["shape"].integers(4);
        program.rate = field["frames_per_second"].number();
        program.latent_frames = field["latent_frames"].integer();
        program.frames = field["frames"].integer();
        program.first = decode_each(field["first"], decode_chunk);
        program.carry = decode_each(field["carry"], decode_carry);
    } else {
        field.object({"kind", "file", "weights", "shape", "sample_rate"});
        program.kind = ResultKind::audio;
        program.shape = field["shape"].integers(2);
        program.rate = double(field["sample_rate"].integer());
    }
    program.file = field["file"].string();
    program.weights = field["weights"].string();
    return program;
}

}  // namespace soda
