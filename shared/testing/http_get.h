// A page of a process under test.
#pragma once

#include <string>

namespace tutti::testing {

// The whole answer, head and body, to GET `path` of "host:port" (an IPv4 address); "" when nobody
// answers.
std::string HttpGet(const std::string& address, const std::string& path);

// A metric of the process that serves /metrics there, named with its labels as on the page; -1
// when it has none of that name.
double MetricOf(const std::string& address, const std::string& metric);

}  // namespace tutti::testing
