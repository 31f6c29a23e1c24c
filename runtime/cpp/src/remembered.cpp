// Remember which files have been hashed, so that a large weights file is hashed once and not at every open. Losing the
// memory, or failing to write it, only means that a hash is computed again.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>

#include "checks.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "strict_json.hpp"

namespace soda {
namespace {

constexpr size_t max_files = 1000;  // remembered; what is beyond is forgotten
constexpr int64_t max_memory_bytes = 16 << 20;
constexpr time_t stale_seconds = 3600;  // a scratch file as old as this is nobody's any more

std::string memory_folder() {
    const char* base = std::getenv("XDG_CACHE_HOME");
    if (base && *base) return std::string(base) + "/soda_runtime";
    const char* home = std::getenv("HOME");
    return home && *home ? std::string(home) + "/.cache/soda_runtime" : "";
}

Json known_of(const std::string& path, const FileEntry& entry) {
    const FileStamp stamp = stamp_of(path);
    return Json::array({entry.sha256, stamp.bytes, stamp.modified_ns, changed_ns(path), stamp.inode});
}

Json load_memory() {
    const std::string folder = memory_folder(), path = folder + "/verified.json";
    if (folder.empty()) return Json::object();
    try {
        Json known = parse_json(read_bytes(path, 0, require_regular_file(path, max_memory_bytes).bytes));
        return known.is_object() ? known : Json::object();
    } catch (const BundleError&) {  // not there, or no file that can be read
        return Json::object();
    } catch (const StrictJsonError&) {
        return Json::object();
    }
}

void make_folders(const std::string& path) {
    for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1))
        ::mkdir(path.substr(0, end).c_str(), 0777);
    ::mkdir(path.c_str(), 0777);
}

// Scratch files that a killed writer left.
void sweep(const std::string& folder) {
    const std::unique_ptr<DIR, int (*)(DIR*)> files(::opendir(folder.c_str()), ::closedir);
    while (const dirent* entry = files ? ::readdir(files.get()) : nullptr) {
        const std::string name = entry->d_name, path = folder + "/" + name;
        struct stat info;
        const bool scratch = name.rfind("verified.", 0) == 0 && name.size() > 4 && !name.compare(name.size() - 4, 4, ".tmp");
        if (scratch && ::lstat(path.c_str(), &info) == 0 && ::time(nullptr) - info.st_mtime > stale_seconds)
            ::unlink(path.c_str());
    }
}

}  // namespace

bool is_remembered(const std::string& path, const FileEntry& entry) {
    const Json known = load_memory();
    const auto found = known.find(resolved(path));
    return found != known.end() && *found == known_of(path, entry);
}

void remember(const std::string& path, const FileEntry& entry, const FileStamp& hashed) {
    const std::string folder = memory_folder();
    if (folder.empty() || !(stamp_of(path) == hashed)) return;
    Json known = load_memory();
    known.erase(resolved(path));
    while (known.size() >= max_files) known.erase(known.begin());
    known[resolved(path)] = known_of(path, entry);
    make_folders(folder);
    sweep(folder);
    static std::atomic<int> writes{0};
    const std::string memory = folder + "/verified.json";
    const std::string scratch = say(memory, ".", ::getpid(), ".", writes++, ".tmp");
    bool written = false;
    {
        std::ofstream file(scratch);
        file << known.dump(0, ' ', true, Json::error_handler_t::replace);
        written = bool(file.flush());
    }
    if (!written || std::rename(scratch.c_str(), memory.c_str()) != 0) std::remove(scratch.c_str());
}

}  // namespace soda
