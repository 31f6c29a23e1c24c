#include "bundle.hpp"

#include <set>

#include "checks.hpp"
#include "errors.hpp"
#include "files.hpp"

namespace soda {
namespace {

Manifest check_folder(const std::string& folder) {
    if (!is_folder(folder)) throw BundleError(folder + ": no such bundle folder; `soda-export build` makes one");
    Manifest manifest = open_manifest(folder);
    check_files(folder, manifest);
    return manifest;
}

std::map<std::string, Table> read_and_check_tables(const std::string& folder, const Manifest& manifest) {
    const std::string path = folder + "/" + manifest.tables;
    const auto refuse = [&](const std::string& what) {
        return BundleError(say(path, ": ", what, "; rebuild the bundle"));
    };
    const std::set<std::string> coefficients = {coefficient_table(manifest, true), coefficient_table(manifest, false)};
    std::set<std::string> expected = coefficients;
    for (const auto& program : manifest.prepare) expected.insert(program.tables.begin(), program.tables.end());
    auto tables = read_tables(path);
    for (const auto& name : expected)
        if (tables.count(name) == 0) throw refuse(say("table ", shown(name), " is missing"));
    for (const auto& [name, table] : tables) {
        if (expected.count(name) == 0) throw refuse(say("table ", shown(name), " is not in the manifest"));
        if (table.shape.size() < 2 || table.shape[0] != manifest.sampler.steps)
            throw refuse(say("table ", shown(name), " does not have ", manifest.sampler.steps, " rows"));
    }
    for (const auto& name : coefficients)
        if (tables[name].shape != Sizes{manifest.sampler.steps, scalar_count(manifest)})
            throw refuse(say(name, " do not have ", scalar_count(manifest), " columns"));
    return tables;
}

BackendOptions with_defaults(BackendOptions options, const Manifest& manifest) {
    if (options.name.empty()) options.name = manifest.backend;
    if (options.device.empty()) options.device = "cpu";
    options.precision = manifest.precision;
    return options;
}

}  // namespace

Bundle::Bundle(const std::string& folder, BackendOptions options)
    : folder_(folder),
      manifest_(check_folder(folder)),
      tables_(read_and_check_tables(folder, manifest_)),
      backend_(open_backend(with_defaults(std::move(options), manifest_))) {}

Bundle::Bundle(const std::string& folder, Manifest manifest, std::unique_ptr<Backend> backend)
    : folder_(folder),
      manifest_(std::move(manifest)),
      tables_(read_and_check_tables(folder, manifest_)),
      backend_(std::move(backend)) {}

const Engine& Bundle::step_engine(size_t program) {
    return open(manifest_.programs[program].file, step_signature(manifest_, program), false);
}

const Engine& Bundle::prepare_engine(const PrepareProgram& program) {
    return open(program.file, signature_of(program), true);
}

const Engine& Bundle::finish_engine() {
    const FinishProgram& program = manifest_.finish.at(0);
    return open(program.file, finish_signature(manifest_, program), true);
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
        auto fresh = backend_->allocate(int64_t(values.size()) * 4);
        fresh->write(values.data(), fresh->bytes());
        memory = std::move(fresh);
    }
    return *memory;
}

const Engine& Bundle::open(const std::string& file, const Signature& signature, bool once) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::unique_ptr<Engine>& engine = engines_[file];
    if (!engine) engine = backend_->open_engine(folder_ + "/" + file, signature, once);
    return *engine;
}

}  // namespace soda
