# Headers, libraries, backends, CMake package, pkg-config file, licences and examples, in Debian's layout.
include(CMakePackageConfigHelpers)

install(TARGETS soda_runtime EXPORT soda_runtime
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES include/soda_runtime.h include/soda_runtime.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
foreach(backend IN LISTS SODA_BACKENDS_BUILT)
  install(TARGETS soda_runtime_${backend} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endforeach()

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/soda_runtime)
install(EXPORT soda_runtime NAMESPACE soda_runtime:: FILE soda_runtimeTargets.cmake DESTINATION ${package_folder})
configure_package_config_file(cmake/soda_runtimeConfig.cmake.in ${CMAKE_BINARY_DIR}/soda_runtimeConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/soda_runtimeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/soda_runtimeConfig.cmake ${CMAKE_BINARY_DIR}/soda_runtimeConfigVersion.cmake
        DESTINATION ${package_folder})

# where the tree is moved, or installed with another --prefix, pkg-config still finds it; GNUInstallDirs' folders may be
# absolute, which stay what they are
file(RELATIVE_PATH SODA_PREFIX_OF_PKGCONFIG "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file(cmake/soda_runtime.pc.in soda_runtime.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/soda_runtime.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# README.md of the installed tree
cmake_host_system_information(RESULT distribution QUERY DISTRIB_PRETTY_NAME)
set(SODA_BUILT_ON "${distribution}, ${CMAKE_SYSTEM_PROCESSOR}, with ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
set(row_null "none: it checks a bundle and computes nothing | ")
set(row_ort "ONNX Runtime: libonnxruntime.so.1 | the loader's path; or `engine_library` of the open options, which may \
name the file in a Python wheel")
set(row_openvino "OpenVINO ${OpenVINO_VERSION}, its archive or wheel; no other version | the loader's path")
set(row_trt "TensorRT 10 or 11, and CUDA | the loader's path")
set(SODA_ENGINE_ROWS "")
foreach(backend IN LISTS SODA_BACKENDS_BUILT)
  string(APPEND SODA_ENGINE_ROWS "| `${backend}` | ${row_${backend}} |\n")
endforeach()
configure_file(cmake/package_readme.md.in package_readme.md @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/package_readme.md DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME README.md)
install(FILES ../../LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES examples/generate.c examples/generate.cpp examples/latency.cpp examples/png.hpp
        DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)
install(DIRECTORY examples/consumer DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)
