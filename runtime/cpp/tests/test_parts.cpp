// The parts without files or engines, on literal bytes: noise, hashes, strict JSON, safetensors headers.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "backends/trt_index.hpp"
#include "check.hpp"
#include "errors.hpp"
#include "names.hpp"
#include "philox.hpp"
#include "sha256.hpp"
#include "strict_json.hpp"
#include "tensors.hpp"

using namespace soda;

namespace {

void philox_gives_the_published_words() {
    CHECK((philox4x32({0, 0, 0, 0}, 0, 0) == Words4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    CHECK((philox4x32({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) == Words4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
           Words4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

void normals_are_the_bits_of_the_format() {
    struct Vector {
        uint64_t seed;
        uint32_t stream, row, bits[8];
    };
    const Vector vectors[] = {
        {0, 0, 0, {0x3f7dbb33, 0xbf6cb6b0, 0xbf1e1b9f, 0xbef6d1b2, 0xbe1d5357, 0x3e392a6d, 0x3f54ec98, 0x3e4a2da3}},
        {1234, 1, 1, {0xbff332d7, 0xbea190ea, 0xbf0fd3c8, 0xbf4feab8, 0x3f123ba3, 0xbdd004aa, 0xbfaaa4af, 0x3f8860fe}},
        {~uint64_t(0),
         7,
         3,
         {0xbf37c2eb, 0xbe4a09aa, 0x3f4609f1, 0xbdda6058, 0x3f217fbd, 0xbf5d2837, 0x3e92a341, 0x3de05b94}},
    };
    for (const Vector& vector : vectors)
        for (size_t count : {size_t(8), size_t(7), size_t(3), size_t(1), size_t(0)}) {
            float values[9] = {0, 0, 0, 0, 0, 0, 0, 0, 42};
            normal(vector.seed, vector.stream, vector.row, values, count);
            CHECK(std::memcmp(values, vector.bits, count * 4) == 0);
            CHECK(count == 8 || values[count] == 0);
            CHECK(values[8] == 42);
        }
}

std::string hash(const std::string& text, size_t piece) {
    Sha256 hash;
    for (size_t i = 0; i < text.size(); i += piece) hash.update(text.data() + i, std::min(piece, text.size() - i));
    return hash.hex();
}

void sha256_gives_the_published_hashes() {
    CHECK(hash("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(hash("abc", 1) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const std::string two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    CHECK(hash(two, 56) == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    for (size_t piece : {1, 63, 64, 65, 1000})
        CHECK(hash(std::string(1000000, 'a'), piece) ==
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

void json_that_is_not_strict_is_refused() {
    for (const char* text : {"",
                             "{",
                             "[1,]",
                             "nul",
                             "NaN",
                             "[Infinity]",
                             "{\"a\":1,\"a\":2}",
                             "{\"a\":1,\"\\u0061\":2}",
                             "[{\"b\":{\"c\":1,\"c\":1}}]",
                             "1e999",
                             "\xef\xbb\xbf{}",
                             "\"\xff\"",
                             "{} {}",
                             "// c\n1",
                             "01",
                             "\"\t\"",
                             "-",
                             "'a'",
                             "\"\\ud83d\"",
                             "\"\\ude00\"",
                             "\"\\ude00\\ud83d\"",
                             "{\"\\ud83dx\":1}",
                             "\"\xed\xa0\x80\""})
        CHECK_THROWS(StrictJsonError, parse_json(text));
    CHECK_THROWS(StrictJsonError, parse_json(std::string(100000, '[')));
    CHECK_THROWS(StrictJsonError, parse_json(std::string(513, '[') + std::string(513, ']')));
    CHECK(parse_json(std::string(512, '[') + std::string(512, ']')).size() == 1);
    CHECK(parse_json("\"\\ud83d\\ude00\"") == "\xf0\x9f\x98\x80");
    CHECK(parse_json(" {\"a\": [1, -2, 3.5, true, null, \"\\u00e4\"], \"b\": {}} ").size() == 2);
}

void fields_have_the_types_that_are_asked_for() {
    const Json value = parse_json(
        "{\"i\": 8, \"f\": 8.0, \"b\": true, \"s\": \"x\", \"big\": 18446744073709551615,"
        "\"wide\": 100000000000000000000, \"a\": [1]}");
    const Field root(value);
    CHECK(root["i"].integer() == 8 && root["i"].number() == 8.0 && root["wide"].number() == 1e20);
    for (const char* key : {"f", "b", "s", "big", "wide", "a"}) CHECK_THROWS(StrictJsonError, root[key].integer());
    for (const char* key : {"b", "s", "a"}) CHECK_THROWS(StrictJsonError, root[key].number());
    CHECK_THROWS(StrictJsonError, root["i"].boolean());
    CHECK_THROWS(StrictJsonError, root["i"].string());
    CHECK_THROWS(StrictJsonError, root["s"].one_of({"y", "z"}));
    CHECK_THROWS(StrictJsonError, root["a"].integers(2));
    CHECK_THROWS(StrictJsonError, root.object({"i"}));
    CHECK_THROWS(StrictJsonError, root.object({"i", "f", "b", "s", "big", "wide", "a", "more"}));
    const Json huge = parse_json("[3.1e38, -1e39]");
    for (const Field& field : Field(huge).array()) CHECK_THROWS(StrictJsonError, field.number());
}

std::string with_length(const std::string& header, size_t data) {
    std::string text(8, '\0');
    for (size_t i = 0; i < 8; ++i) text[i] = char(header.size() >> (8 * i));
    return text + header + std::string(data, 'x');
}

void headers_that_lie_are_refused() {
    const auto parse = [](const std::string& header, size_t data) {
        const std::string text = with_length(header, data);
        return parse_header("file", text, int64_t(text.size()));
    };
    const auto one = [](const char* dtype, const char* shape, const char* range) {
        return say("{\"w\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", range, "}}");
    };
    CHECK(parse(one("F32", "[2,3]", "[0,24]"), 24).at("w").shape == (Sizes{2, 3}));
    CHECK(parse(one("F32", "[]", "[0,4]"), 4).at("w").shape.empty());
    CHECK(parse(one("F32", "[0,281474976710655,9]", "[0,0]"), 0).size() == 1);
    CHECK(parse("{\"__metadata__\":{\"a\":\"b\"}}   ", 0).empty());
    for (const auto& header :
         {one("F32", "[2,3]", "[0,20]"), one("F32", "[2,3]", "[4,28]"), one("F99", "[2,3]", "[0,24]"),
          one("F32", "[-2,-3]", "[0,24]"), one("F32", "[2.0,3]", "[0,24]"), one("F32", "[2,3]", "[0,24,24]"),
          one("F32", "[281474976710656]", "[0,24]"), one("F32", "[6,1,1,1,1,1,1,1,1]", "[0,24]"),
          one("F32", "[281474976710655,281474976710655]", "[0,24]"), one("F32", "[true,6]", "[0,24]"),
          std::string("[]"), std::string("{\"w\":1}"), std::string("{")})
        CHECK_THROWS(BundleError, parse(header, 24));
    CHECK_THROWS(BundleError, parse_header("file", "short", 5));
    CHECK_THROWS(BundleError, parse_header("file", std::string(8, '\xff'), 8));
}

void names_are_plain_or_refused() {
    CHECK(matches("step-00.onnx", "A-Za-z0-9", "A-Za-z0-9._-", 100));
    CHECK(matches("a-z", "a-z", "a-z-", 3));
    for (const char* name : {"", ".x", "a/b", "a\n", "\xc3\xa4", "a b"})
        CHECK(!matches(name, "A-Za-z0-9", "A-Za-z0-9._-", 100));
    CHECK(!matches(std::string("a\0b", 3), "a-z", "a-z", 100));
    CHECK(!matches(std::string(101, 'a'), "a-z", "a-z", 100));
}

void an_engine_index_is_read_or_refused() {
    char folder[] = "/tmp/soda-index-XXXXXX";
    CHECK(::mkdtemp(folder));
    const std::string path = std::string(folder) + "/engines.json";
    const auto read = [&](const std::string& text) {
        std::ofstream(path) << text;
        return read_engine_index(folder);
    };
    const std::string good =
        "{\"format\": \"soda-engines\", \"version\": 1, \"library\": \"trt\", \"library_version\": \"10.9.0.34\", "
        "\"targets\": [\"sm89\"], \"weights\": \"stripped\", \"max_batch\": 4, \"model\": \"digits\", "
        "\"precision\": \"fp16\", \"engines\": {\"step-00.trt\": {\"content\": \"00\", "
        "\"weights_file\": \"weights.safetensors\", \"activation_bytes\": 0}}}";
    const EngineIndex index = read(good);
    CHECK(index.library == "trt" && index.weights == "stripped" && index.max_batch == 4);
    CHECK(index.weights_file.at("step-00.trt") == "weights.safetensors");
    const std::pair<const char*, const char*> lies[] = {
        {"weights.safetensors", "../weights"}, {"\"stripped\"", "\"elsewhere\""},  {"\"version\": 1", "\"version\": 2"},
        {"soda-engines", "soda-bundle"},       {"\"max_batch\": 4", "\"max\": 4"}, {"{", "["}};
    for (const auto& [from, to] : lies) {
        std::string text = good;
        text.replace(text.find(from), std::strlen(from), to);
        CHECK_THROWS(EngineError, read(text));
    }
    std::remove(path.c_str());
    CHECK_THROWS(EngineError, read_engine_index(folder));
    ::rmdir(folder);
}

}  // namespace

int main() {
    return run_tests({
        {"philox gives the published words", philox_gives_the_published_words},
        {"normals are the bits of the format", normals_are_the_bits_of_the_format},
        {"SHA-256 gives the published hashes", sha256_gives_the_published_hashes},
        {"JSON that is not strict is refused", json_that_is_not_strict_is_refused},
        {"fields have the types that are asked for", fields_have_the_types_that_are_asked_for},
        {"headers that lie are refused", headers_that_lie_are_refused},
        {"names are plain or refused", names_are_plain_or_refused},
        {"an engine index is read or refused", an_engine_index_is_read_or_refused},
    });
}
