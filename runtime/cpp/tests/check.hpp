// A test is a function that throws. run_tests calls them all and says which failed.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define CHECK(condition)                                                                                      \
    do {                                                                                                      \
        if (!(condition))                                                                                     \
            throw std::runtime_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition); \
    } while (false)

#define CHECK_THROWS(Type, expression)                                                                               \
    do {                                                                                                             \
        bool thrown = false;                                                                                         \
        try {                                                                                                        \
            (void)(expression);                                                                                      \
        } catch (const Type&) {                                                                                      \
            thrown = true;                                                                                           \
        }                                                                                                            \
        if (!thrown) throw std::runtime_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": no " #Type); \
    } while (false)

using Tests = std::vector<std::pair<const char*, std::function<void()>>>;

inline int run_tests(const Tests& tests) {
    int failures = 0;
    for (const auto& [name, test] : tests) {
        try {
            test();
            std::printf("passed  %s\n", name);
        } catch (const std::exception& error) {
            std::printf("FAILED  %s\n        %s\n", name, error.what());
            ++failures;
        }
        std::fflush(stdout);
    }
    return failures != 0;
}
