#include "shared/http/message.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace tutti::http {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string LowerAll(std::string_view s) {
  std::string out(s);
  std::transform(out.begin(), out.end(), out.begin(), Lower);
  return out;
}

// Thousandths of a "q" parameter; 1000 when there is none, 0 when it is malformed (a weight that
// cannot be read admits nothing).
int Quality(std::string_view parameters) {
  while (!parameters.empty()) {
    const size_t end = std::min(parameters.find(';'), parameters.size());
    const std::string_view p = TrimBlanks(parameters.substr(0, end));
    parameters.remove_prefix(std::min(end + 1, parameters.size()));
    if (p.size() < 2 || Lower(p[0]) != 'q' || p[1] != '=') continue;
    const std::string_view v = p.substr(2);
    if (v.empty() || (v[0] != '0' && v[0] != '1') || v.size() > 5) return 0;
    if (v.size() > 1 && v[1] != '.') return 0;
    int q = (v[0] - '0') * 1000, unit = 100;
    for (size_t i = 2; i < v.size(); ++i, unit /= 10) {
      if (v[i] < '0' || v[i] > '9') return 0;
      q += (v[i] - '0') * unit;
    }
    return std::min(q, 1000);
  }
  return 1000;
}

}  // namespace

bool SameWord(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return Lower(x) == Lower(y); });
}

std::string_view Headers::Get(std::string_view name) const {
  for (const Header& h : *this) {
    if (SameWord(h.name, name)) return h.value;
  }
  return {};
}

size_t Headers::Count(std::string_view name) const {
  return static_cast<size_t>(
      std::count_if(begin(), end(), [&](const Header& h) { return SameWord(h.name, name); }));
}

void Headers::Set(std::string_view name, std::string value) {
  std::erase_if(*this, [&](const Header& h) { return SameWord(h.name, name); });
  Add(std::string(name), std::move(value));
}

std::string_view StatusName(int status) {
  static constexpr std::pair<int, std::string_view> kNames[] = {
      {100, "Continue"},
      {200, "OK"},
      {204, "No Content"},
      {304, "Not Modified"},
      {400, "Bad Request"},
      {401, "Unauthorized"},
      {403, "Forbidden"},
      {404, "Not Found"},
      {405, "Method Not Allowed"},
      {406, "Not Acceptable"},
      {408, "Request Timeout"},
      {409, "Conflict"},
      {411, "Length Required"},
      {413, "Content Too Large"},
      {414, "URI Too Long"},
      {415, "Unsupported Media Type"},
      {417, "Expectation Failed"},
      {421, "Misdirected Request"},
      {429, "Too Many Requests"},
      {431, "Request Header Fields Too Large"},
      {499, "Client Closed Request"},
      {500, "Internal Server Error"},
      {501, "Not Implemented"},
      {503, "Service Unavailable"},
      {504, "Gateway Timeout"},
      {505, "HTTP Version Not Supported"},
  };
  for (const auto& [number, name] : kNames) {
    if (number == status) return name;
  }
  return "Status";
}

std::string HttpDate(int64_t unix_s) {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto t = static_cast<time_t>(unix_s);
  tm u{};
  gmtime_r(&t, &u);
  char text[64];
  std::snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[u.tm_wday],
                u.tm_mday, kMonths[u.tm_mon], u.tm_year + 1900, u.tm_hour, u.tm_min, u.tm_sec);
  return text;
}

bool IsToken(std::string_view s) {
  static constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != kMarks.npos;
  });
}

std::string_view TrimBlanks(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

std::vector<std::string_view> ListMembers(std::string_view value) {
  std::vector<std::string_view> out;
  size_t begin = 0;
  bool quoted = false;
  for (size_t i = 0; i <= value.size(); ++i) {
    if (i < value.size() && quoted) {
      if (value[i] == '\\')
        ++i;
      else if (value[i] == '"')
        quoted = false;
      continue;
    }
    if (i < value.size() && value[i] == '"') quoted = true;
    if (i < value.size() && value[i] != ',') continue;
    const std::string_view member = TrimBlanks(value.substr(begin, i - begin));
    if (!member.empty()) out.push_back(member);
    begin = i + 1;
  }
  return out;
}

bool ListHas(std::string_view value, std::string_view word) {
  for (const std::string_view m : ListMembers(value)) {
    if (SameWord(m, word)) return true;
  }
  return false;
}

std::string MediaType(std::string_view content_type) {
  const std::string_view type =
      TrimBlanks(content_type.substr(0, std::min(content_type.find(';'), content_type.size())));
  const size_t slash = type.find('/');
  if (slash == type.npos || !IsToken(type.substr(0, slash)) || !IsToken(type.substr(slash + 1)))
    return "";
  return LowerAll(type);
}

bool Refuses(std::string_view accept, std::string_view type) {
  const std::string_view family = type.substr(0, type.find('/'));
  int best = -1, quality = 0;
  for (const std::string_view m : ListMembers(accept)) {
    const size_t end = std::min(m.find(';'), m.size());
    const std::string_view range = TrimBlanks(m.substr(0, end));
    int rank = -1;
    if (SameWord(range, type)) {
      rank = 2;
    } else if (range.ends_with("/*") && SameWord(range.substr(0, range.size() - 2), family)) {
      rank = 1;
    } else if (range == "*/*" || range == "*") {
      rank = 0;
    }
    if (rank > best) {
      best = rank;
      quality = Quality(m.substr(end));
    }
  }
  return best >= 0 && quality == 0;
}

bool AcceptsIdentity(std::string_view accept_encoding) {
  bool admitted = true, named = false;
  for (const std::string_view m : ListMembers(accept_encoding)) {
    const size_t end = std::min(m.find(';'), m.size());
    const std::string_view coding = TrimBlanks(m.substr(0, end));
    const bool ok = Quality(m.substr(end)) > 0;
    if (SameWord(coding, "identity")) {
      admitted = ok;
      named = true;
    } else if (coding == "*" && !named) {
      admitted = ok;
    }
  }
  return admitted;
}

std::string_view Credentials(std::string_view authorization, std::string_view scheme) {
  authorization = TrimBlanks(authorization);
  if (authorization.size() <= scheme.size() || authorization[scheme.size()] != ' ' ||
      !SameWord(authorization.substr(0, scheme.size()), scheme)) {
    return {};
  }
  return TrimBlanks(authorization.substr(scheme.size()));
}

std::string HostName(std::string_view host) {
  std::string_view port;
  if (!host.empty() && host.front() == '[') {
    const size_t end = host.find(']');
    if (end == host.npos) return "";
    const std::string_view rest = host.substr(end + 1);
    host = host.substr(1, end - 1);
    if (!rest.empty() && rest.front() != ':') return "";
    if (!rest.empty()) port = rest.substr(1);
  } else if (const size_t colon = host.find(':'); colon != host.npos) {
    port = host.substr(colon + 1);
    host = host.substr(0, colon);
  }
  for (const char c : port) {
    if (c < '0' || c > '9') return "";
  }
  for (const char c : host) {
    const bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      std::string_view("-._~%!$&'()*+,;=:").find(c) != std::string_view::npos;
    if (!fine) return "";
  }
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  return LowerAll(host);
}

bool PercentDecode(std::string_view in, std::string* out) {
  const auto hex = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  out->clear();
  out->reserve(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] != '%') {
      out->push_back(in[i]);
      continue;
    }
    if (i + 2 >= in.size()) return false;
    const int value = hex(in[i + 1]) * 16 + hex(in[i + 2]);
    if (hex(in[i + 1]) < 0 || hex(in[i + 2]) < 0 || value == 0) return false;
    out->push_back(static_cast<char>(value));
    i += 2;
  }
  return true;
}

}  // namespace tutti::http
