// Files of a bundle as bytes. A file that cannot be read is a BundleError with its path.
#pragma once

#include <cstdint>
#include <string>

namespace soda {

constexpr const char* rebuild = "copy the bundle again or rebuild it with `soda-export build`";  // ends a message

struct FileStamp {
    int64_t bytes, modified_ns, inode;
};

bool is_folder(const std::string& path);
// Demand a regular file of at most max_bytes, by way of a symbolic link only where that is allowed. Gives its size.
int64_t require_regular_file(const std::string& path, int64_t max_bytes, bool may_be_link = false);
FileStamp stamp_of(const std::string& path);
// `bytes` bytes from `offset`; fewer at the end of the file.
std::string read_bytes(const std::string& path, int64_t offset, int64_t bytes);
std::string sha256_of(const std::string& path);

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
