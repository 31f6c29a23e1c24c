# Threads and nlohmann-json, and where the wheels of a Python lie.
find_package(Threads REQUIRED)

find_path(NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp HINTS ${CMAKE_CURRENT_SOURCE_DIR}/../../.venv/cpp/usr/include)
if(NOT NLOHMANN_JSON_INCLUDE_DIR)
  message(FATAL_ERROR
    "nlohmann/json.hpp was not found. Install it (Debian and Ubuntu: apt install nlohmann-json3-dev), let "
    "`make cpp` download it, or give its folder: -DNLOHMANN_JSON_INCLUDE_DIR=...")
endif()

# A Python whose wheels may hold engine libraries: the one given, the project's own, or none.
if(NOT SODA_PYTHON AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/../../.venv/bin/python)
  set(SODA_PYTHON ${CMAKE_CURRENT_SOURCE_DIR}/../../.venv/bin/python)
endif()
set(SODA_WHEELS "")
if(SODA_PYTHON)
  execute_process(COMMAND ${SODA_PYTHON} -c "import sysconfig; print(sysconfig.get_path('platlib'))"
                  OUTPUT_VARIABLE SODA_WHEELS OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
