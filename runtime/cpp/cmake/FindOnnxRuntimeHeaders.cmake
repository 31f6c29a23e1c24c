# ONNXRUNTIME_INCLUDE_DIR: folder of onnxruntime_c_api.h, from an SDK, the system, or what `make cpp` downloads.
# ONNXRUNTIME_LIBRARY: path of the library to load, from the SDK, the system or a Python's wheel; may be empty.
set(suffixes include include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h
          HINTS ${ONNXRUNTIME_ROOT} ${CMAKE_CURRENT_SOURCE_DIR}/../../.venv/cpp/usr PATH_SUFFIXES ${suffixes})
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib lib64)
if(NOT ONNXRUNTIME_LIBRARY)
  file(GLOB candidates ${SODA_WHEELS}/onnxruntime/capi/libonnxruntime.so.*)
  list(APPEND candidates "")
  list(GET candidates 0 first)
  set(ONNXRUNTIME_LIBRARY "${first}" CACHE FILEPATH "ONNX Runtime's shared library" FORCE)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders REQUIRED_VARS ONNXRUNTIME_INCLUDE_DIR)
