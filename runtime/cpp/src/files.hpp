// Files of a bundle as bytes. A file that cannot be read is a BundleError with its path.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace soda {

constexpr const char* rebuild = "copy the bundle again or rebuild it with `soda-export build`";  // ends a message

// What tells a file from another one in its place. A link's is that of its target.
struct FileStamp {
    int64_t device, inode, bytes, modified_ns;
};

bool operator==(const FileStamp& a, const FileStamp& b);

bool is_folder(const std::string& path);
// The path without links; the path itself where there is no such file.
std::string resolved(const std::string& path);
// Demand a regular file of at most max_bytes, or a link to one: what is in it is for hashes to decide. Gives its stamp.
FileStamp require_regular_file(const std::string& path, int64_t max_bytes);
FileStamp stamp_of(const std::string& path);
int64_t changed_ns(const std::string& path);  // when its content, name or owner changed
// `bytes` bytes from `offset`; fewer at the end of the file.
std::string read_bytes(const std::string& path, int64_t offset, int64_t bytes);
std::string sha256_of(const std::string& path);

// The files of a folder as they were when they were checked.
class CheckedFiles {
public:
    using Stamps = std::map<std::string, FileStamp>;

    CheckedFiles(std::string folder, Stamps stamps) : folder_(std::move(folder)), stamps_(std::move(stamps)) {}

    // Whatever is opened by path later is what was checked. Raises BundleError.
    void require_same(const std::vector<std::string>& names) const;
    // No file that engines may have mapped was written to in its place; another file of that name is no matter.
    void require_untouched(const std::vector<std::string>& names) const;
    // The first of these that is a symbolic link, or "".
    std::string link_among(const std::vector<std::string>& names) const;

private:
    std::string folder_;
    Stamps stamps_;
};

// A file's bytes, mapped for reading; copies of it share the pages.
class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const char* data() const { return data_; }
    size_t size() const { return size_; }
    void drop_pages() const;  // resident pages go; they come back from the file when they are read again

private:
    const char* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace soda
