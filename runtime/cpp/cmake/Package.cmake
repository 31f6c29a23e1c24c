# The installed tree as a tarball: cpack, in the build folder. SODA_PORTABLE is for one that goes to other machines.
set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME soda_runtime)
set(CPACK_PACKAGE_FILE_NAME soda_runtime-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
include(CPack)
