# cmake -DIN=index.html -DOUT=web_page.cc -P embed.cmake
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "(................................................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE "${OUT}" "#include <string_view>
#include \"services/gateway/gateway.h\"
namespace tutti::gateway {
namespace {
constexpr unsigned char kPage[] = {
${bytes}
};
}  // namespace
std::string_view WebPage() { return {reinterpret_cast<const char*>(kPage), sizeof kPage}; }
}  // namespace tutti::gateway
")
