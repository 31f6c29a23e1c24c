// Open a bundle: checked files, tables in memory, engines opened when first needed and shared by all sessions.
#pragma once

#include <memory>
#include <mutex>

#include "backend.hpp"
#include "files.hpp"
#include "guard.hpp"
#include "lora.hpp"
#include "manifest.hpp"
#include "policy.hpp"
#include "tensors.hpp"

namespace soda {

class PromptTokenizer;

// A folder that was checked, as it was then.
struct CheckedBundle {
    std::string folder;
    Manifest manifest;
    CheckedFiles files;
    std::map<std::string, Table> tables;
    std::optional<OpenedPolicy> policy;
};

class Bundle : public OpenedHere {
public:
    // Check and open the folder; options.name "" takes the backend that the bundle was built for.
    Bundle(const std::string& folder, BackendOptions options, const std::vector<LoraArgument>& loras = {});
    // The same over a backend that is open already, for tests.
    Bundle(const std::string& folder, Manifest manifest, std::unique_ptr<Backend> backend);

    const std::string& folder() const { return folder_; }
    const Manifest& manifest() const { return manifest_; }
    const Backend& backend() const { return *backend_; }

    // Engines by program, opened at first use. Weights of prepare and finish programs are not repacked: they run once.
    // replaced: what they take in the place of the files' own.
    std::shared_ptr<const Engine> step_engine(size_t program, const SharedReplaced& replaced);
    std::shared_ptr<const Engine> prepare_engine(const PrepareProgram& program, const SharedReplaced& replaced);
    std::shared_ptr<const Engine> finish_engine(bool first = false);  // first: of a video's first call, its own
    std::shared_ptr<const Engine> signals_engine();                   // of a bundle that has a policy
    Signature signature_of(const PrepareProgram& program) const;
    // A table in the backend's memory, uploaded at first use.
    const Memory& table(const std::string& name);
    int64_t row_bytes(const std::string& table) const { return tables_.at(table).row_bytes(); }
    const std::map<std::string, Table>& tables() const { return tables_; }
    const OpenedPolicy* policy() const { return policy_ ? &*policy_ : nullptr; }

    // Token ids of tokenizer `number` are below this; 0 where its file does not say.
    int64_t vocabulary(size_t number);
    const PromptTokenizer& tokenizer(size_t number);  // opened at first use
    // The weights that requests which begin now take in the place of the files' own.
    SharedReplaced replaced() const;
    // Of the LoRA files that it was opened with, one for each, from the next request on. RequestError.
    void set_lora_strengths(const std::vector<double>& strengths);

    // No weights file, which engines may have mapped, was written to since it was checked. Raises BundleError.
    void require_weights() const { files_.require_untouched(manifest_.weights); }

private:
    Bundle(CheckedBundle checked, std::unique_ptr<Backend> backend);
    Bundle(CheckedBundle checked, BackendOptions options);
    std::shared_ptr<const Engine> open_checked(const std::string& file, const Signature& signature, bool once,
                                               const std::string& weights, const SharedReplaced& replaced) const;
    std::shared_ptr<const Engine> open(const std::string& file, const Signature& signature, bool once,
                                       const std::string& weights, const SharedReplaced& replaced);

    std::string folder_;
    Manifest manifest_;
    CheckedFiles files_;
    std::map<std::string, Table> tables_;
    std::optional<OpenedPolicy> policy_;
    std::unique_ptr<Backend> backend_;
    std::optional<BundleLoras> loras_;
    mutable std::mutex lock_;  // guards what follows
    SharedReplaced replaced_ = std::make_shared<Replaced>();
    std::map<std::pair<std::string, uint64_t>, std::shared_ptr<const Engine>> engines_;  // by file and version
    std::map<std::string, std::unique_ptr<Memory>> uploaded_;
    std::map<size_t, int64_t> vocabularies_;
    std::map<size_t, std::shared_ptr<const PromptTokenizer>> tokenizers_;
};

}  // namespace soda
