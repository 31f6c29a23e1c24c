// Remember which files have been hashed, so that a large weights file is hashed once and not at every open. Losing the
// memory, or failing to write it, only means that a hash is computed again.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "checks.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "strict_json.hpp"

namespace soda {
namespace {

std::string memory_folder() {
    const char* base = std::getenv("XDG_CACHE_HOME");
    if (base && *base) return std::string(base) + "/soda_runtime";
    const char* home = std::getenv("HOME");
    return home && *home ? std::string(home) + "/.cache/soda_runtime" : "";
}

std::string resolved(const std::string& path) {
    char* real = ::realpath(path.c_str(), nullptr);
    std::string result = real ? real : path;
    std::free(real);
    return result;
}

Json stamp_json(const std::string& path, const FileEntry& entry) {
    const FileStamp stamp = stamp_of(path);
    return Json::array({entry.sha256, stamp.bytes, stamp.modified_ns, stamp.inode});
}

Json load_memory() {
    const std::string folder = memory_folder();
    if (folder.empty()) return Json::object();
    std::ifstream file(folder + "/verified.json");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    try {
        Json known = parse_json(text);
        return known.is_object() ? known : Json::object();
    } catch (const StrictJsonError&) {
        return Json::object();
    }
}

void make_folders(const std::string& path) {
    for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1))
        ::mkdir(path.substr(0, end).c_str(), 0777);
    ::mkdir(path.c_str(), 0777);
}

}  // namespace

bool is_remembered(const std::string& path, const FileEntry& entry) {
    const Json known = load_memory();
    const auto found = known.find(resolved(path));
    return found != known.end() && *found == stamp_json(path, entry);
}

void remember(const std::string& path, const FileEntry& entry) {
    const std::string folder = memory_folder();
    if (folder.empty()) return;
    const Json before = load_memory();
    Json known = Json::object();
    for (const auto& item : before.items())
        if (::access(item.key().c_str(), F_OK) == 0) known[item.key()] = item.value();
    known[resolved(path)] = stamp_json(path, entry);
    make_folders(folder);
    static std::atomic<int> writes{0};
    const std::string memory = folder + "/verified.json";
    const std::string scratch = say(folder, "/verified.", ::getpid(), ".", writes++, ".tmp");
    bool written = false;
    {
        std::ofstream file(scratch);
        file << known.dump(0, ' ', true, Json::error_handler_t::replace);
        written = bool(file.flush());
    }
    if (!written || std::rename(scratch.c_str(), memory.c_str()) != 0) std::remove(scratch.c_str());
}

}  // namespace soda
