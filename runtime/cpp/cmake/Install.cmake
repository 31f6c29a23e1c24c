# Headers, libraries, backends, CMake package and pkg-config file, in Debian's layout.
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
