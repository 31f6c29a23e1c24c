#include "files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "errors.hpp"
#include "sha256.hpp"

namespace soda {
namespace {

[[noreturn]] void unreadable(const std::string& path) {
    throw BundleError(say(path, ": cannot be read (", std::strerror(errno), "); ", rebuild));
}

int64_t nanoseconds(const struct timespec& time) {
    return time.tv_sec * int64_t(1000000000) + time.tv_nsec;
}

FileStamp stamp(const struct stat& info) {
    return {int64_t(info.st_dev), int64_t(info.st_ino), info.st_size, nanoseconds(info.st_mtim)};
}

class Descriptor {
public:
    explicit Descriptor(const std::string& path)
        : path_(path), number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
        if (number_ < 0) unreadable(path);
    }
    ~Descriptor() { ::close(number_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    int number() const { return number_; }

    size_t read(char* to, size_t bytes, int64_t offset) const {
        size_t done = 0;
        while (done < bytes) {
            const ssize_t got = ::pread(number_, to + done, bytes - done, offset + int64_t(done));
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) unreadable(path_);
            if (got == 0) break;
            done += size_t(got);
        }
        return done;
    }

private:
    const std::string& path_;
    int number_;
};

}  // namespace

bool is_folder(const std::string& path) {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool operator==(const FileStamp& a, const FileStamp& b) {
    return a.device == b.device && a.inode == b.inode && a.bytes == b.bytes && a.modified_ns == b.modified_ns;
}

std::string resolved(const std::string& path) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), std::free);
    return real ? real.get() : path;
}

FileStamp require_regular_file(const std::string& path, int64_t max_bytes) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) throw BundleError(say(path, ": missing; ", rebuild));
    if (!S_ISREG(info.st_mode)) throw BundleError(say(path, ": not a regular file; ", rebuild));
    if (info.st_size > max_bytes)
        throw BundleError(say(path, ": ", info.st_size, " bytes, at most ", max_bytes, " are expected; ", rebuild));
    return stamp(info);
}

FileStamp stamp_of(const std::string& path) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) unreadable(path);
    return stamp(info);
}

int64_t changed_ns(const std::string& path) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) unreadable(path);
    return nanoseconds(info.st_ctim);
}

void CheckedFiles::require_same(const std::vector<std::string>& names) const {
    for (const auto& name : names) {
        const std::string path = folder_ + "/" + name;
        struct stat info;
        const bool there = ::stat(path.c_str(), &info) == 0;
        if (!there || !(stamp(info) == stamps_.at(name)))
            throw BundleError(say(path, there ? ": " : ": gone, ",
                                  "changed since the bundle was opened: the bundle was replaced; open it again"));
    }
}

void CheckedFiles::require_untouched(const std::vector<std::string>& names) const {
    for (const auto& name : names) {
        const std::string path = folder_ + "/" + name;
        struct stat info;
        if (::stat(path.c_str(), &info) != 0) continue;
        const FileStamp found = stamp(info), &known = stamps_.at(name);
        if (found.device == known.device && found.inode == known.inode && !(found == known))
            throw BundleError(
                say(path, ": written to while the bundle is open; put files in place by renaming them"));
    }
}

std::string CheckedFiles::link_among(const std::vector<std::string>& names) const {
    for (const auto& name : names) {
        const std::string path = folder_ + "/" + name;
        struct stat info;
        if (::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode)) return path;
    }
    return "";
}

std::string read_bytes(const std::string& path, int64_t offset, int64_t bytes) {
    std::string content(size_t(bytes), '\0');
    content.resize(Descriptor(path).read(content.data(), content.size(), offset));
    return content;
}

std::string sha256_of(const std::string& path) {
    const Descriptor file(path);
    std::vector<char> buffer(1 << 18);
    Sha256 hash;
    for (int64_t offset = 0;;) {
        const size_t got = file.read(buffer.data(), buffer.size(), offset);
        if (got == 0) return hash.hex();
        hash.update(buffer.data(), got);
        offset += int64_t(got);
    }
}

MappedFile::MappedFile(const std::string& path) {
    const Descriptor file(path);
    struct stat info;
    if (::fstat(file.number(), &info) != 0) unreadable(path);
    size_ = size_t(info.st_size);
    if (size_ == 0) return;
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
    if (mapped == MAP_FAILED) unreadable(path);
    data_ = static_cast<const char*>(mapped);
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(const_cast<char*>(data_), size_);
}

void MappedFile::drop_pages() const {
    if (data_) ::madvise(const_cast<char*>(data_), size_, MADV_DONTNEED);
}

}  // namespace soda
