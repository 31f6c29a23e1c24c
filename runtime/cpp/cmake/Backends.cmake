# One shared object for each engine library that is found, loaded on demand from beside libsoda_runtime.
set(SODA_BACKENDS_BUILT "")
set(SODA_CUDA_SOURCES src/backends/cuda.cpp src/backends/cuda_api.cpp src/backends/staging.cpp)

# objects of soda_core, by the stem of their source: a backend has its own copy of what it uses, compiled once
function(soda_core_objects result)
  string(REPLACE ";" "|" stems "${ARGN}")
  set(${result} "$<FILTER:$<TARGET_OBJECTS:soda_core>,INCLUDE,/(${stems})[.]cpp[.]>" PARENT_SCOPE)
endfunction()

function(soda_add_backend name)
  add_library(soda_runtime_${name} MODULE ${ARGN})
  target_include_directories(soda_runtime_${name} PRIVATE include src)
  target_link_libraries(soda_runtime_${name} PRIVATE soda_flags Threads::Threads ${CMAKE_DL_LIBS})
  target_link_options(soda_runtime_${name} PRIVATE
                      LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/src/backends/backend.map)
  if(SODA_PORTABLE)  # assertions in engine libraries' headers name their file
    target_compile_options(soda_runtime_${name} PRIVATE -ffile-prefix-map=${SODA_WHEELS}/=)
  else()
    set_target_properties(soda_runtime_${name} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  endif()
  set(SODA_BACKENDS_BUILT "${SODA_BACKENDS_BUILT};${name}" PARENT_SCOPE)
endfunction()

# wanted: whether to look for a backend's library; found by name, or demanded in SODA_BACKENDS
function(soda_missing_backend name)
  string(REPLACE ";" "" text "${ARGN}")
  if("${name}" IN_LIST SODA_BACKENDS)
    message(FATAL_ERROR "backend ${name}: ${text}")
  elseif(SODA_BACKENDS STREQUAL "auto")
    message(STATUS "backend ${name}: not built; ${text}")
  endif()
endfunction()

macro(soda_wants result name)
  set(${result} OFF)
  if(SODA_BACKENDS STREQUAL "auto" OR "${name}" IN_LIST SODA_BACKENDS)
    set(${result} ON)
  endif()
endmacro()

soda_wants(wanted null)
if(wanted)
  soda_add_backend(null src/backends/null.cpp)
endif()

soda_wants(wanted ort)
if(wanted)
  find_package(OnnxRuntimeHeaders QUIET)
  if(ONNXRUNTIME_INCLUDE_DIR)
    soda_core_objects(shared onnx_initializers files sha256 printable strict_json tensors)
    soda_add_backend(ort src/backends/ort.cpp src/backends/ort_device.cpp src/backends/ort_library.cpp
                     src/backends/ort_weights.cpp ${shared} ${SODA_CUDA_SOURCES})
    target_include_directories(soda_runtime_ort SYSTEM PRIVATE ${ONNXRUNTIME_INCLUDE_DIR} ${NLOHMANN_JSON_INCLUDE_DIR})
    target_compile_definitions(soda_runtime_ort PRIVATE
                               SODA_ONNXRUNTIME_LIBRARY="$<$<NOT:$<BOOL:${SODA_PORTABLE}>>:${ONNXRUNTIME_LIBRARY}>")
    message(STATUS "backend ort: headers in ${ONNXRUNTIME_INCLUDE_DIR}, library ${ONNXRUNTIME_LIBRARY}")
  else()
    soda_missing_backend(ort
      "onnxruntime_c_api.h was not found. The wheel has none: give an SDK with -DONNXRUNTIME_ROOT=..., install "
      "libonnxruntime-dev (Debian 13 and later), or let `make cpp` download that package's headers. An older header "
      "works with a newer library")
  endif()
endif()

soda_wants(wanted openvino)
if(wanted)
  find_package(OpenVINO QUIET COMPONENTS Runtime HINTS ${SODA_WHEELS}/openvino/cmake)
  if(OpenVINO_FOUND)
    soda_add_backend(openvino src/backends/openvino.cpp)
    target_link_libraries(soda_runtime_openvino PRIVATE openvino::runtime)
    message(STATUS "backend openvino: ${OpenVINO_VERSION} in ${OpenVINO_DIR}")
  else()
    soda_missing_backend(openvino
      "OpenVINO was not found. Install its wheel (pip install openvino) and give -DSODA_PYTHON=..., or "
      "-DOpenVINO_DIR=<folder of OpenVINOConfig.cmake>")
  endif()
endif()

soda_wants(wanted trt)
if(wanted)
  find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include)
  find_path(CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${CUDA_ROOT} /usr/local/cuda PATH_SUFFIXES include)
  if(TENSORRT_INCLUDE_DIR AND CUDA_INCLUDE_DIR)
    soda_core_objects(shared trt_index names files printable sha256 strict_json tensors)
    soda_add_backend(trt src/backends/trt.cpp src/backends/trt_library.cpp ${shared} ${SODA_CUDA_SOURCES})
    target_include_directories(soda_runtime_trt SYSTEM PRIVATE ${TENSORRT_INCLUDE_DIR} ${CUDA_INCLUDE_DIR}
                               ${NLOHMANN_JSON_INCLUDE_DIR})
    message(STATUS "backend trt: headers in ${TENSORRT_INCLUDE_DIR}; the library is loaded at run time")
  else()
    soda_missing_backend(trt
      "NvInferRuntime.h or cuda_runtime_api.h was not found. The wheel has none: install TensorRT's and CUDA's "
      "development packages, or give -DTENSORRT_ROOT=... and -DCUDA_ROOT=...")
  endif()
endif()

string(REGEX REPLACE "^;" "" SODA_BACKENDS_BUILT "${SODA_BACKENDS_BUILT}")
