#include "bundle.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <set>
#include <thread>
#include <tuple>

#include "checks.hpp"
#include "errors.hpp"
#include "text/tokenizer.hpp"
#include "vocabulary.hpp"

namespace soda {
namespace {

constexpr float max_table_value = 1e18f;  // so that a product of two is finite in float32

std::map<std::string, Table> read_and_check_tables(const std::string& folder, const Manifest& manifest) {
    const std::string path = folder + "/" + manifest.tables;
    const auto refuse = [&](const std::string& what) {
        return BundleError(say(path, ": ", what, "; rebuild the bundle"));
    };
    const std::set<std::string> coefficients = {coefficient_table(manifest, true), coefficient_table(manifest, false)};
    std::set<std::string> expected = coefficients;
    for (const auto& program : manifest.prepare) expected.insert(program.tables.begin(), program.tables.end());
    auto tables = read_tables(path);
    const bool starts = manifest.version == current_version && tables.count(start_levels_table) != 0;
    for (const char* name : {start_levels_table, start_coefficients_table, start_known_table})
        if (starts && tables.count(name)) expected.insert(name);
    const auto previews = tables.find(preview_levels_table);
    if (manifest.version == current_version && previews != tables.end()) expected.insert(preview_levels_table);
    for (const auto& name : expected)
        if (tables.count(name) == 0) throw refuse(say("table ", shown(name), " is missing"));
    for (const auto& [name, table] : tables) {
        if (expected.count(name) == 0) throw refuse(say("table ", shown(name), " is not in the manifest"));
        if (table.shape.size() < 2 || table.shape[0] != manifest.sampler.steps)
            throw refuse(say("table ", shown(name), " does not have ", manifest.sampler.steps, " rows"));
        if (!std::all_of(table.values.begin(), table.values.end(),
                         [](float value) { return std::abs(value) <= max_table_value; }))
            throw refuse(say("table ", shown(name), " has a value that is not a number within ", max_table_value));
    }
    for (const auto& name : coefficients)
        if (tables[name].shape != Sizes{manifest.sampler.steps, scalar_count(manifest)})
            throw refuse(say(name, " do not have ", scalar_count(manifest), " columns"));
    if (starts && tables[start_levels_table].shape != Sizes{manifest.sampler.steps, 3})
        throw refuse(say(start_levels_table, " do not have 3 columns"));
    if (previews != tables.end() && previews->second.shape != Sizes{manifest.sampler.steps, 2})
        throw refuse(say(preview_levels_table, " do not have 2 columns"));
    const auto known = tables.find(start_known_table);
    if (known != tables.end() &&
        (known->second.shape != Sizes{manifest.sampler.steps, 2} || manifest.sampler.state_size <= 2))
        throw refuse(say(start_known_table, " do not have 2 columns, or the state has no tensors for them"));
    const auto fresh = tables.find(start_coefficients_table);
    if (fresh == tables.end()) return tables;
    const Sizes& shape = fresh->second.shape;
    if (shape.size() != 3 || shape[1] < 1 || shape[2] != scalar_count(manifest))
        throw refuse(say(start_coefficients_table, " are not rows of ", scalar_count(manifest), " columns"));
    return tables;
}

// Those of sizes.json, else the one that the bundle makes.
std::vector<SizedManifest> sizes_of(const std::string& folder, const Manifest& manifest) {
    std::vector<SizedManifest> sizes = open_sizes(folder, manifest);
    const auto [height, width] = made_size(manifest);
    if (sizes.empty() && height) sizes.push_back({height, width, manifest, policy_name});
    return sizes;
}

CheckedBundle check_once(const std::string& path) {
    if (!is_folder(path)) throw BundleError(path + ": no such bundle folder; `soda-export build` makes one");
    const std::string folder = resolved(path);  // whatever becomes of the working directory, or of links to the folder
    Manifest manifest = open_manifest(folder);
    const CheckedFiles files(folder, check_files(folder, manifest));
    auto tables = read_and_check_tables(folder, manifest);
    auto policy = read_policy(folder, manifest);
    std::vector<std::string> read = {manifest.tables};
    if (policy) read.insert(read.end(), {policy_name, policy->policy.tables});
    files.require_same(read);
    auto sizes = sizes_of(folder, manifest);
    return {folder, std::move(manifest), files, std::move(tables), std::move(policy), std::move(sizes)};
}

// What changes where another bundle is put in a folder's place; no value where there is none.
using Identity = std::optional<std::tuple<std::string, FileStamp, FileStamp>>;

Identity identity_of(const std::string& path) {
    try {
        const std::string folder = resolved(path);
        return Identity({folder, stamp_of(folder), stamp_of(folder + "/" + manifest_name)});
    } catch (const BundleError&) {
        return {};
    }
}

// A bundle that is being replaced meanwhile is looked at again.
CheckedBundle check_folder(const std::string& path) {
    constexpr int attempts = 10;
    for (int attempt = 0; attempt < attempts; ++attempt) {
        const Identity found = identity_of(path);
        try {
            return check_once(path);
        } catch (const BundleError&) {
            if (found == identity_of(path)) throw;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10 * attempt));
    }
    throw BundleError(say(path, ": was replaced ", attempts, " times while it was opened; open it again"));
}

// The same for a manifest that was read already.
CheckedBundle check_known(const std::string& folder, Manifest manifest) {
    CheckedFiles::Stamps stamps;
    for (const auto& [name, entry] : manifest.files)
        stamps[name] = require_regular_file(folder + "/" + name, entry.bytes);
    auto tables = read_and_check_tables(folder, manifest);
    auto policy = read_policy(folder, manifest);
    auto sizes = sizes_of(folder, manifest);
    return {folder, std::move(manifest), CheckedFiles(folder, std::move(stamps)), std::move(tables),
            std::move(policy), std::move(sizes)};
}

BackendOptions with_defaults(BackendOptions options, const Manifest& manifest) {
    if (options.name.empty()) options.name = manifest.backend;
    if (options.device.empty()) options.device = "cpu";
    options.precision = manifest.precision;
    return options;
}

}  // namespace

Bundle::Bundle(const std::string& folder, BackendOptions options, const std::vector<LoraArgument>& loras)
    : Bundle(check_folder(folder), std::move(options)) {
    if (loras.empty()) return;
    shared_->loras.emplace(folder_, manifest_, loras);
    std::vector<double> strengths;
    for (const LoraArgument& lora : loras) strengths.push_back(lora.strength);
    set_lora_strengths(strengths);
}

Bundle::Bundle(const std::string& folder, Manifest manifest, std::unique_ptr<Backend> backend)
    : Bundle(check_known(folder, std::move(manifest)), std::move(backend)) {}

Bundle::Bundle(CheckedBundle checked, std::unique_ptr<Backend> backend)
    : folder_(std::move(checked.folder)),
      manifest_(std::move(checked.manifest)),
      tables_(std::move(checked.tables)),
      policy_(std::move(checked.policy)),
      shared_(new SharedParts{std::move(checked.files), std::move(checked.sizes), std::move(backend)}) {}

Bundle::Bundle(CheckedBundle checked, BackendOptions options)
    : folder_(std::move(checked.folder)),
      manifest_(std::move(checked.manifest)),
      tables_(std::move(checked.tables)),
      policy_(std::move(checked.policy)),
      shared_(new SharedParts{std::move(checked.files), std::move(checked.sizes),
                              open_backend(with_defaults(std::move(options), manifest_))}) {}

Bundle::Bundle(const std::string& folder, const Manifest& manifest, std::shared_ptr<SharedParts> shared,
               const std::string& policy)
    : folder_(folder), manifest_(manifest), shared_(std::move(shared)) {
    tables_ = read_and_check_tables(folder_, manifest_);
    policy_ = read_policy(folder_, manifest_, policy);
    std::vector<std::string> read = {manifest_.tables};
    if (policy_) read.insert(read.end(), {policy, policy_->policy.tables});
    shared_->files.require_same(read);
}

std::shared_ptr<Bundle> Bundle::at(int64_t height, int64_t width) const {
    require_here();
    std::string known;
    for (const SizedManifest& size : sizes()) {
        if (size.height == height && size.width == width)
            return std::shared_ptr<Bundle>(new Bundle(folder_, size.manifest, shared_, size.policy));
        known += say(known.empty() ? "" : ", ", size.height, "x", size.width);
    }
    throw RequestError(say("size ", height, "x", width, ": this bundle has ",
                           known.empty() ? "one size, which it does not name" : known));
}

void Bundle::open_engines() {
    if (sizes().size() < 2) return open_own_engines();
    for (const SizedManifest& size : sizes()) at(size.height, size.width)->open_own_engines();
}

void Bundle::open_own_engines() {
    const SharedReplaced now = replaced();
    for (size_t i = 0; i < manifest_.programs.size(); ++i) step_engine(i, now);
    for (const PrepareProgram& program : manifest_.prepare) prepare_engine(program, now);
    for (const FinishProgram& program : manifest_.finish) {
        finish_engine();
        if (!program.first.empty()) finish_engine(true);
    }
    if (policy_) signals_engine();
}

std::shared_ptr<const Engine> Bundle::step_engine(size_t program, const SharedReplaced& replaced) {
    const Program& used = manifest_.programs[program];
    return open(used.file, step_signature(manifest_, program), false, used.weights.value_or(""), replaced);
}

std::shared_ptr<const Engine> Bundle::prepare_engine(const PrepareProgram& program, const SharedReplaced& replaced) {
    return open(program.file, signature_of(program), true, program.weights.value_or(""), replaced);
}

std::shared_ptr<const Engine> Bundle::finish_engine(bool first) {
    const FinishProgram& program = manifest_.finish.at(0);
    return open(first ? program.first.at(0).file : program.file, finish_signature(manifest_, program, first), true,
                program.weights.value_or(""), std::make_shared<Replaced>());
}

std::shared_ptr<const Engine> Bundle::signals_engine() {
    const Policy& policy = policy_.value().policy;
    return open(policy.signals, signals_signature(manifest_, policy), false, "", std::make_shared<Replaced>());
}

SharedReplaced Bundle::replaced() const {
    const std::lock_guard<std::mutex> guard(shared_->lock);
    return shared_->replaced;
}

void Bundle::set_lora_strengths(const std::vector<double>& strengths) {
    require_here();
    if (!shared_->loras) throw RequestError("this bundle was opened without LoRA; name the files when you open it");
    shared_->files.require_same(manifest_.weights);
    SharedReplaced made = shared_->loras->replaced(strengths);
    shared_->files.require_same(manifest_.weights);
    if (made->version) shared_->backend->judge_replaced(folder_);
    const std::lock_guard<std::mutex> guard(shared_->lock);
    shared_->replaced = std::move(made);
    auto& engines = shared_->engines;
    for (auto engine = engines.begin(); engine != engines.end();)
        engine = engine->first.second == 0 ? std::next(engine) : engines.erase(engine);
}

Signature Bundle::signature_of(const PrepareProgram& program) const {
    std::map<std::string, Sizes> shapes;
    for (const auto& [name, table] : tables_) shapes[name] = table.shape;
    return prepare_signature(manifest_, program, shapes);
}

const Memory& Bundle::table(const std::string& name) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::unique_ptr<Memory>& memory = uploaded_[name];
    if (!memory) {
        const std::vector<float>& values = tables_.at(name).values;
        auto fresh = shared_->backend->allocate(int64_t(values.size()) * 4);
        fresh->write(values.data(), fresh->bytes());
        memory = std::move(fresh);
    }
    return *memory;
}

std::shared_ptr<const Engine> Bundle::open(const std::string& file, const Signature& signature, bool once,
                                           const std::string& weights, const SharedReplaced& replaced) {
    require_here();
    const std::lock_guard<std::mutex> guard(shared_->lock);
    const uint64_t version = replaced->of_program(weights).empty() ? 0 : replaced->version;
    const auto same = [&](const auto& opened) {
        return opened.first.inputs == signature.inputs && opened.first.outputs == signature.outputs;
    };
    const auto known = shared_->engines.find({file, version});
    if (known != shared_->engines.end()) {
        const auto found = std::find_if(known->second.begin(), known->second.end(), same);
        if (found != known->second.end()) return found->second;
    }
    auto engine = open_checked(file, signature, once, weights, replaced);
    if (version == 0 || version == shared_->replaced->version)  // else of an older request
        shared_->engines[{file, version}].emplace_back(signature, engine);
    return engine;
}

// Libraries open files by path, once more: what they get must be what was checked.
std::shared_ptr<const Engine> Bundle::open_checked(const std::string& file, const Signature& signature, bool once,
                                                   const std::string& weights, const SharedReplaced& replaced) const {
    std::vector<std::string> used = manifest_.weights;
    used.insert(used.begin(), file);
    if (manifest_.files.count(engine_index_name)) used.emplace_back(engine_index_name);
    shared_->files.require_same(used);
    try {
        auto engine = shared_->backend->open_engine(folder_ + "/" + file, signature, once, weights, replaced);
        shared_->files.require_same(used);
        return engine;
    } catch (const EngineError& error) {
        shared_->files.require_same(used);
        const std::string link = shared_->files.link_among(used);
        if (link.empty()) throw;
        throw EngineError(say(error.what(), "; ", link,
                              " is a symbolic link, through which an engine library may read no weights: copy the "
                              "bundle with `cp -rL`"),
                          error.status);
    }
}

const PromptTokenizer& Bundle::tokenizer(size_t number) {
    require_here();
    const std::lock_guard<std::mutex> guard(lock_);
    std::shared_ptr<const PromptTokenizer>& opened = tokenizers_[number];
    if (!opened) {
        const Tokenizer& entry = manifest_.tokenizers.at(number);
        shared_->files.require_same({entry.file});
        opened = std::make_shared<const PromptTokenizer>(folder_ + "/" + entry.file, entry);
        shared_->files.require_same({entry.file});
    }
    return *opened;
}

int64_t Bundle::vocabulary(size_t number) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto known = vocabularies_.find(number);
    if (known != vocabularies_.end()) return known->second;
    const Tokenizer& tokenizer = manifest_.tokenizers.at(number);
    shared_->files.require_same({tokenizer.file});
    const int64_t size = vocabulary_size(folder_ + "/" + tokenizer.file);
    return vocabularies_[number] = size ? std::max(size, tokenizer.pad_id + 1) : 0;
}

}  // namespace soda
