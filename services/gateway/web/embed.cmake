# cmake -DDIR=web -DOUT=web_page.cc -P embed.cmake
# Joins the page: @style@ and @script@ in page.html become the files below, in this order.
set(scripts dom markdown settings api store tokens facts chat chats)
file(READ "${DIR}/page.html" page HEX)
file(READ "${DIR}/style.css" style HEX)
set(script "")
foreach(name ${scripts})
  file(READ "${DIR}/${name}.js" part HEX)
  string(APPEND script "${part}")
endforeach()
string(REPLACE "407374796c6540" "${style}" page "${page}")    # @style@
string(REPLACE "4073637269707440" "${script}" page "${page}")  # @script@
string(REGEX REPLACE "(................................................................)" "\\1\n" page "${page}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${page}")
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
