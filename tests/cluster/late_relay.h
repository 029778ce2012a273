// A slow network between two processes of one machine: carries connections of one unix socket to
// another and holds back what it reads.
#pragma once

#include <memory>
#include <string>

namespace tutti::cluster {

class LateRelay {
 public:
  // Listens on `path` at once and connects to `to` for each connection. Every piece that is read is
  // held back by 0 to `most_ms`, drawn from `seed`, in each direction; none overtakes another.
  LateRelay(const std::string& path, std::string to, int most_ms, unsigned seed);
  ~LateRelay();  // ends the connections
  int num_pieces() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti::cluster
