#include "trt_index.hpp"

#include "../errors.hpp"
#include "../files.hpp"
#include "../names.hpp"
#include "../strict_json.hpp"

namespace soda {
namespace {

constexpr int64_t max_bytes = 16 << 20;

EngineIndex decode(const Field& root) {
    root.object({"format", "version", "library", "library_version", "targets", "weights", "max_batch", "model",
                 "precision", "engines"});
    if (root["format"].string() != "soda-engines" || root["version"].integer() != 1)
        throw StrictJsonError("not a soda-engines file of version 1");
    EngineIndex index;
    index.library = root["library"].string();
    index.library_version = root["library_version"].string();
    index.weights = root["weights"].one_of({"baked", "stripped", "inputs"});
    index.max_batch = root["max_batch"].integer();
    auto words = root["targets"].strings();
    words.insert(words.end(), {index.library, index.library_version});
    root["model"].string();
    root["precision"].one_of({"fp32", "fp16", "bf16"});
    for (const auto& [name, entry] : root["engines"].entries()) {
        entry.object({"content", "weights_file", "activation_bytes"});
        entry["content"].string();
        entry["activation_bytes"].integer();
        const std::string file = index.weights_file[name] = entry["weights_file"].string();
        if (!file.empty()) words.push_back(file);
    }
    for (const auto& word : words)
        if (!is_plain_file(word))
            throw StrictJsonError(say(shown(word), " is no name of a library, a target or a weights file"));
    return index;
}

}  // namespace

EngineIndex read_engine_index(const std::string& folder) {
    const std::string path = folder + "/" + engine_index_name;
    try {
        const std::string text = read_bytes(path, 0, require_regular_file(path, max_bytes).bytes);
        const Json value = parse_json(text);
        require_printable(value);
        return decode(Field(value));
    } catch (const StrictJsonError& error) {
        throw EngineError(say(path, ": ", error.what(), "; rebuild the bundle"));
    } catch (const BundleError& error) {
        throw EngineError(error.what());
    }
}

}  // namespace soda
