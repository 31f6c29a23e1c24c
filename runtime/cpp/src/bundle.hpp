// Open a bundle: checked files, tables in memory, engines opened when first needed and shared by all sessions.
#pragma once

#include <memory>
#include <mutex>

#include "backend.hpp"
#include "manifest.hpp"
#include "tensors.hpp"

namespace soda {

class Bundle {
public:
    // Check and open the folder; options.name "" takes the backend that the bundle was built for.
    Bundle(const std::string& folder, BackendOptions options);
    // The same over a backend that is open already, for tests.
    Bundle(const std::string& folder, Manifest manifest, std::unique_ptr<Backend> backend);

    const Manifest& manifest() const { return manifest_; }
    const Backend& backend() const { return *backend_; }

    // Engines by program, opened at first use. Weights of prepare and finish programs are not repacked: they run once.
    const Engine& step_engine(size_t program);
    const Engine& prepare_engine(const PrepareProgram& program);
    const Engine& finish_engine();
    Signature signature_of(const PrepareProgram& program) const;
    // A table in the backend's memory, uploaded at first use.
    const Memory& table(const std::string& name);
    int64_t row_bytes(const std::string& table) const { return tables_.at(table).row_bytes(); }

private:
    const Engine& open(const std::string& file, const Signature& signature, bool once);

    std::string folder_;
    Manifest manifest_;
    std::map<std::string, Table> tables_;
    std::unique_ptr<Backend> backend_;
    std::mutex lock_;  // guards what follows
    std::map<std::string, std::unique_ptr<Engine>> engines_;
    std::map<std::string, std::unique_ptr<Memory>> uploaded_;
};

}  // namespace soda
