#include "shared/testing/http_get.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

namespace tutti::testing {

std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return "";
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: x\r\n\r\n";
  std::string out;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      out.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return out;
}

double MetricOf(const std::string& address, const std::string& metric) {
  const std::string page = HttpGet(address, "/metrics");
  const size_t at = page.find("\n" + metric + " ");
  return at == std::string::npos ? -1 : std::stod(page.substr(at + metric.size() + 2));
}

}  // namespace tutti::testing
