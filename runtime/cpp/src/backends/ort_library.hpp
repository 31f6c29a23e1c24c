// ONNX Runtime's C API: the library found and loaded at run time, and handles that release themselves.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

namespace soda {

// The functions of the loaded library, in the version of the header that this was compiled with. An older header
// works with a newer library. path: "" takes the one found when this was built, else the system's.
const OrtApi& load_ort(const std::string& path);

// EngineError with `where` and the library's words, unless status is null. Releases it.
void check_ort(const OrtApi& ort, OrtStatus* status, const std::string& where);

// A handle of the C API and the function that releases it.
template <class T>
using OrtHandle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

}  // namespace soda
