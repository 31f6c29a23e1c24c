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
#include "sizes.hpp"
#include "tensors.hpp"

namespace soda {

class PromptTokenizer;

// A folder that was checked, as it was then. sizes: its manifests, the first one's first.
struct CheckedBundle {
    std::string folder;
    Manifest manifest;
    CheckedFiles files;
    std::map<std::string, Table> tables;
    std::optional<OpenedPolicy> policy;
    std::vector<SizedManifest> sizes;
};

// What all sizes of a bundle have in common.
struct SharedParts {
    CheckedFiles files;
    std::vector<SizedManifest> sizes;
    std::unique_ptr<Backend> backend;
    std::optional<BundleLoras> loras = {};
    std::mutex lock = {};  // guards what follows
    SharedReplaced replaced = std::make_shared<Replaced>();
    // By file and version; one that several sizes share has the same signature for each of them.
    std::map<std::pair<std::string, uint64_t>, std::vector<std::pair<Signature, std::shared_ptr<const Engine>>>>
        engines = {};
};

class Bundle : public OpenedHere {
public:
    // Check and open the folder; options.name "" takes the backend that the bundle was built for.
    Bundle(const std::string& folder, BackendOptions options, const std::vector<LoraArgument>& loras = {});
    // The same over a backend that is open already, for tests.
    Bundle(const std::string& folder, Manifest manifest, std::unique_ptr<Backend> backend);

    // The same bundle at one of its sizes, which shares engines and weights with this one. RequestError for another.
    std::shared_ptr<Bundle> at(int64_t height, int64_t width) const;

    const std::string& folder() const { return folder_; }
    const Manifest& manifest() const { return manifest_; }
    const Backend& backend() const { return *shared_->backend; }
    // Of what requests may ask for; empty for sound, and for latents of a bundle of one size.
    const std::vector<SizedManifest>& sizes() const { return shared_->sizes; }
    void open_engines();  // those of every size, now

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
    void require_weights() const { shared_->files.require_untouched(manifest_.weights); }

private:
    Bundle(CheckedBundle checked, std::unique_ptr<Backend> backend);
    Bundle(CheckedBundle checked, BackendOptions options);
    // Another size of a bundle.
    Bundle(const std::string& folder, const Manifest& manifest, std::shared_ptr<SharedParts> shared,
           const std::string& policy);
    void open_own_engines();
    std::shared_ptr<const Engine> open_checked(const std::string& file, const Signature& signature, bool once,
                                               const std::string& weights, const SharedReplaced& replaced) const;
    std::shared_ptr<const Engine> open(const std::string& file, const Signature& signature, bool once,
                                       const std::string& weights, const SharedReplaced& replaced);

    std::string folder_;
    Manifest manifest_;
    std::map<std::string, Table> tables_;
    std::optional<OpenedPolicy> policy_;
    std::shared_ptr<SharedParts> shared_;
    std::mutex lock_;  // guards what follows
    std::map<std::string, std::unique_ptr<Memory>> uploaded_;
    std::map<size_t, int64_t> vocabularies_;
    std::map<size_t, std::shared_ptr<const PromptTokenizer>> tokenizers_;
};

}  // namespace soda
