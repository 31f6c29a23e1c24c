#include "lora.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "errors.hpp"
#include "files.hpp"
#include "floats.hpp"
#include "lora_names.hpp"

namespace soda {
namespace {

const std::string plain_weight = ".weight", turned_weight = ".weight.T";
const std::string t5 = "text_encoder_3", second_encoder = "text_encoder_2";  // kohya's te3 is T5, FLUX.1's second
const std::string unet = "unet.";  // before a UNet's names where it stands beside its ControlNets
constexpr size_t most_shown = 3;
constexpr unsigned most_threads = 4;

bool ends_with(const std::string& text, const std::string& ending) {
    return text.size() > ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

std::string shape_text(const Sizes& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += say(i ? ", " : "", shape[i]);
    return text + "]";
}

std::string some(const std::vector<std::string>& names) {
    std::string text;
    for (size_t i = 0; i < std::min(names.size(), most_shown); ++i) text += (i ? ", " : "") + shown(names[i], 120);
    return names.size() > most_shown ? text + say(" and ", names.size() - most_shown, " more") : text;
}

// Whether axes are equal from the second on, but for ones at the end: a product may stand as a 1 x 1 convolution.
bool same_inputs(const Sizes& a, const Sizes& b) {
    const Sizes &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
    for (size_t i = 1; i < longer.size(); ++i)
        if (longer[i] != (i < shorter.size() ? shorter[i] : 1)) return false;
    return true;
}

// values[o, i] += factor * sum over r of up[begin + o, r] * down[r, i], where values are [rows, in], or turned [in, rows].
void add_product(std::vector<float>& values, const LoraLayer& layer, int64_t begin, int64_t rows, float factor,
                 bool turned) {
    const size_t rank = size_t(layer.down.shape[0]);
    const std::vector<float> down = layer.down.values(), up = layer.up.values();
    const size_t width = rank ? down.size() / rank : 0;
    std::vector<float> row(width);
    for (size_t o = 0; o < size_t(rows); ++o) {
        std::fill(row.begin(), row.end(), 0.0f);
        for (size_t r = 0; r < rank; ++r) {
            const float weight = up[(size_t(begin) + o) * rank + r] * factor;
            for (size_t i = 0; i < width; ++i) row[i] += weight * down[r * width + i];
        }
        if (turned)
            for (size_t i = 0; i < width; ++i) values[i * size_t(rows) + o] += row[i];
        else
            for (size_t i = 0; i < width; ++i) values[o * width + i] += row[i];
    }
}

// body(i) for i below count, on a few threads; the first exception is thrown on.
template <class Body>
void in_parallel(size_t count, Body body) {
    std::atomic<size_t> next{0};
    std::exception_ptr failure;
    std::mutex lock;
    const auto work = [&] {
        try {
            for (size_t i; (i = next++) < count;) body(i);
        } catch (...) {
            const std::lock_guard<std::mutex> guard(lock);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    const unsigned threads = std::min(most_threads, std::max(1u, std::thread::hardware_concurrency()));
    try {
        for (unsigned i = 1; i < threads && i < count; ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads: fewer do
    }
    work();
    for (auto& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace

bool BundleLoras::Stored::turned() const {
    return ends_with(name, turned_weight);
}

Sizes BundleLoras::Stored::shape() const {
    Sizes shape = entry.shape;
    if (turned()) std::reverse(shape.begin(), shape.end());
    return shape;
}

BundleLoras::BundleLoras(const std::string& folder, const Manifest& manifest, const std::vector<LoraArgument>& given)
    : folder_(folder) {
    const Parts parts = parts_of(folder, manifest);
    for (const LoraArgument& each : given) loras_.push_back(read_lora(each.path));
    for (size_t i = 0; i < loras_.size(); ++i) add(i, parts);
}

// The denoiser is "", a text encoder has the name that its weights begin with. What makes results has no LoRA.
BundleLoras::Parts BundleLoras::parts_of(const std::string& folder, const Manifest& manifest) {
    std::set<std::string> of_texts, of_results;
    for (const auto& program : manifest.prepare)
        if (is_encoder(manifest, program)) of_texts.insert(program.weights.value_or(""));
    for (const auto& program : manifest.finish) of_results.insert(program.weights.value_or(""));
    for (const auto& program : manifest.programs)  // an old bundle may have one file for all
        for (auto* others : {&of_texts, &of_results}) others->erase(program.weights.value_or(""));
    Parts parts;
    parts[""];
    for (const auto& file : manifest.weights) {
        if (of_results.count(file)) continue;
        for (const auto& [name, entry] : read_header(folder + "/" + file)) {
            std::string path;
            for (const auto& ending : {turned_weight, plain_weight})
                if (path.empty() && ends_with(name, ending)) path = name.substr(0, name.size() - ending.size());
            if (path.empty() || entry.shape.size() < 2) continue;
            std::string part;
            if (of_texts.count(file)) {
                const size_t dot = path.find('.');
                part = path.substr(0, dot);
                path = dot == std::string::npos ? "" : path.substr(dot + 1);
            } else if (path.compare(0, unet.size(), unet) == 0) {
                path.erase(0, unet.size());
            }
            parts[part][path].push_back({file, name, entry});
        }
    }
    return parts;
}

void BundleLoras::add(size_t number, const Parts& parts) {
    const LoraFile& lora = loras_[number];
    std::map<LoraKey, std::vector<std::string>> known;
    for (const auto& [part, layers] : parts) {
        std::vector<std::string> paths;
        for (const auto& [path, twins] : layers) paths.push_back(path);
        known.merge(lora_keys(part, paths));
    }
    const auto key_of = [&](const LoraLayer& layer) {
        LoraKey key = lora_key(layer.name);
        if (key.first == t5 && !parts.count(t5)) key.first = second_encoder;
        return key;
    };
    std::vector<std::string> unknown, folded, elsewhere;
    size_t found = 0;
    for (const LoraLayer& layer : lora.layers) {
        const LoraKey key = key_of(layer);
        if (known.count(key))
            ++found;
        else if (!parts.count(key.first))
            elsewhere.push_back(layer.name);
        else
            (only_timestep_decides(key) ? folded : unknown).push_back(layer.name);
    }
    const std::string count = say("lora ", lora.path, ": ", found, " of ", lora.layers.size(), " layers are in this model");
    if (!unknown.empty())
        throw RequestError(say(count, "; not in it: ", some(unknown), "; the LoRA is for another model"));
    if (!folded.empty())
        throw RequestError(say(count, "; only the timestep decides ", some(folded),
                               ", so the build made tables of them: bake the LoRA in with `soda-export build --lora`"));
    if (!elsewhere.empty())
        throw RequestError(say(count, "; it comes without the text encoder of ", some(elsewhere),
                               ": build with it, or leave these out"));
    for (const LoraLayer& layer : lora.layers) {
        const LoraKey key = key_of(layer);
        std::vector<const std::vector<Stored>*> matrices;
        int64_t out = 0;
        bool fits = true;
        std::string shapes;
        for (const auto& path : known.at(key)) {
            matrices.push_back(&parts.at(key.first).at(path));
            const Sizes shape = matrices.back()->front().shape();
            fits = fits && same_inputs(shape, layer.down.shape);
            out += shape[0];
            shapes += (shapes.empty() ? "" : " and ") + shape_text(shape);
        }
        if (!fits || out != layer.up.shape[0]) {
            Sizes own = layer.down.shape;
            own[0] = layer.up.shape[0];
            throw RequestError(say("lora ", lora.path, ": ", shown(layer.name, 120), " is for a matrix ",
                                   shape_text(own), ", and this model's is ", shapes, "; it is for another model"));
        }
        int64_t begin = 0;
        for (const auto* twins : matrices) {
            const int64_t rows = twins->front().shape()[0];
            for (const Stored& matrix : *twins) {
                if (!is_float_dtype(matrix.entry.dtype))
                    throw RequestError(say("lora ", lora.path, ": this bundle keeps ", shown(matrix.name, 120), " in ",
                                           matrix.entry.dtype,
                                           ", where small changes round away; bake the LoRA in with `soda-export build "
                                           "--lora`"));
                changes_[matrix].push_back({number, &layer, begin, rows});
            }
            begin += rows;
        }
    }
}

SharedReplaced BundleLoras::replaced(const std::vector<double>& strengths) const {
    static std::atomic<uint64_t> versions{0};
    if (strengths.size() != loras_.size())
        throw RequestError(
            say(strengths.size(), " strengths for ", loras_.size(), " LoRA files; give one for each"));
    for (double strength : strengths)
        if (!std::isfinite(strength))
            throw RequestError(say("lora strength ", strength, ": give a number; 1 is the LoRA as it was trained"));
    std::vector<std::pair<const Stored*, std::vector<Change>>> touched;
    for (const auto& [matrix, changes] : changes_) {
        std::vector<Change> wanted;
        for (const Change& change : changes)
            if (strengths[change.lora] != 0) wanted.push_back(change);
        if (!wanted.empty()) touched.emplace_back(&matrix, std::move(wanted));
    }
    auto made = std::make_shared<Replaced>();
    std::vector<HostTensor> tensors(touched.size());
    in_parallel(touched.size(),
                [&](size_t i) { tensors[i] = changed(*touched[i].first, touched[i].second, strengths); });
    for (size_t i = 0; i < touched.size(); ++i)
        made->files[touched[i].first->file][touched[i].first->name] = std::move(tensors[i]);
    if (!touched.empty()) made->version = ++versions;
    return made;
}

// The stored matrix with its changes, summed in float32.
HostTensor BundleLoras::changed(const Stored& matrix, const std::vector<Change>& changes,
                                const std::vector<double>& strengths) const {
    const TensorEntry& entry = matrix.entry;
    const std::string stored = read_bytes(folder_ + "/" + matrix.file, entry.begin, entry.end - entry.begin);
    std::vector<float> values = widened(entry.dtype, stored.data(), stored.size());
    if (int64_t(stored.size()) != entry.end - entry.begin)
        throw BundleError(say(folder_, "/", matrix.file, ": was cut while the bundle is open; ", rebuild));
    for (const Change& change : changes)
        add_product(values, *change.layer, change.begin, change.rows,
                    float(strengths[change.lora] * change.layer->scale), matrix.turned());
    HostTensor made{entry.dtype, entry.shape, narrowed(entry.dtype, values)};
    const std::vector<float> kept = widened(made.dtype, made.content.data(), made.content.size());
    if (!std::all_of(kept.begin(), kept.end(), [](float value) { return std::isfinite(value); }))
        throw RequestError(say("lora ", loras_[changes[0].lora].path, ": takes ", shown(matrix.name, 120),
                               " beyond the range of ", entry.dtype, ", or is not finite itself; use a lower strength"));
    return made;
}

}  // namespace soda
