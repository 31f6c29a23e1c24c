// Read a prompt's embeddings from a safetensors file: float32 values, masks of any whole type.
#include <cstring>

#include "errors.hpp"
#include "files.hpp"
#include "request_inputs.hpp"
#include "tensors.hpp"

namespace soda {
namespace {

constexpr int64_t max_file_bytes = int64_t(1) << 32;

const TensorEntry& entry_of(const TensorEntries& entries, const std::string& path, const std::string& name) {
    const auto found = entries.find(name);
    if (found == entries.end()) throw RequestError(say(path, ": has no tensor '", name, "'"));
    return found->second;
}

template <class T>
int64_t as_number(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return int64_t(value);
}

std::vector<int64_t> whole_numbers(const std::string& content, const TensorEntry& entry, const std::string& path) {
    const size_t item = entry.dtype == "I64" ? 8 : entry.dtype == "I32" ? 4 : entry.dtype == "I16" ? 2 : 1;
    const bool whole = item > 1 || entry.dtype == "I8" || entry.dtype == "U8" || entry.dtype == "BOOL";
    if (!whole) throw RequestError(say(path, ": a mask of ", entry.dtype, ", expected whole numbers"));
    std::vector<int64_t> numbers;
    for (int64_t at = entry.begin; at < entry.end; at += int64_t(item)) {
        const char* from = content.data() + at;
        numbers.push_back(item == 8   ? as_number<int64_t>(from)
                          : item == 4 ? as_number<int32_t>(from)
                          : item == 2 ? as_number<int16_t>(from)
                                      : as_number<int8_t>(from));
    }
    return numbers;
}

int64_t read_pair(const std::string& content, const TensorEntries& entries, const std::string& path,
                  const std::string& prefix, int64_t tokens, int64_t width, std::vector<float>& values,
                  std::vector<int64_t>& mask) {
    const TensorEntry& embeds = entry_of(entries, path, prefix + "prompt_embeds");
    const TensorEntry& ones = entry_of(entries, path, prefix + "prompt_attention_mask");
    const bool fits = embeds.dtype == "F32" && embeds.shape.size() == 3 && embeds.shape[0] > 0 &&
                      embeds.shape[1] == tokens && embeds.shape[2] == width;
    if (!fits)
        throw RequestError(say(path, ": ", prefix, "prompt_embeds is not F32 [samples, ", tokens, ", ", width, "]"));
    if (ones.shape != Sizes{embeds.shape[0], tokens})
        throw RequestError(say(path, ": ", prefix, "prompt_attention_mask is not [samples, ", tokens, "]"));
    values.resize(size_t(embeds.end - embeds.begin) / 4);
    std::memcpy(values.data(), content.data() + embeds.begin, values.size() * 4);
    mask = whole_numbers(content, ones, path);
    return embeds.shape[0];
}

}  // namespace

Embeds read_embeds(const std::string& path, int64_t tokens, int64_t width) {
    try {
        const int64_t bytes = require_regular_file(path, max_file_bytes).bytes;
        const std::string content = read_bytes(path, 0, bytes);
        const TensorEntries entries = parse_header(path, content, int64_t(content.size()));
        Embeds embeds;
        embeds.prompts = read_pair(content, entries, path, "", tokens, width, embeds.values, embeds.mask);
        if (entries.count("negative_prompt_embeds"))
            embeds.negatives = read_pair(content, entries, path, "negative_", tokens, width, embeds.negative_values,
                                         embeds.negative_mask);
        return embeds;
    } catch (const BundleError& error) {  // the file is the request's, not the bundle's, and so is the remedy
        const std::string message = error.what();
        throw RequestError(message.substr(0, message.rfind("; ")) + "; save the embeddings again");
    }
}

}  // namespace soda
