// libFuzzer: any bytes are a manifest, or its family of errors; so are a policy, the header of a tensor file and an
// ONNX model.
#include "backends/onnx_initializers.hpp"
#include "consistency.hpp"
#include "errors.hpp"
#include "manifest.hpp"
#include "policy.hpp"
#include "signature.hpp"
#include "strict_json.hpp"
#include "tensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    try {
        const soda::Manifest manifest = soda::parse_manifest(text, "manifest.json");
        if (soda::first_problem(manifest).empty())
            for (size_t i = 0; i < manifest.programs.size(); ++i) soda::step_signature(manifest, i);
    } catch (const soda::BundleError&) {
    }
    try {
        soda::parse_policy(text, soda::policy_name);
    } catch (const soda::BundleError&) {
    } catch (const soda::StrictJsonError&) {
    }
    try {
        soda::parse_header("weights", text, int64_t(size));
    } catch (const soda::BundleError&) {
    }
    soda::list_external_initializers(text);
    return 0;
}
