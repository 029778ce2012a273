// Groups directions: spherical k-means (Dhillon and Modha, "Concept decompositions for large sparse
// text data using clustering", Machine Learning 42, 2001, section 3), with the seeding of k-means++
// (Arthur and Vassilvitskii, SODA 2007).
//
// Determinism: exact: sums run in the order of the rows, dot products over 16 lanes (i mod 16).
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::upcycle {

// Folded 8, 4, 2, 1, as every sum over a row (docs/determinism.md).
float Dot(std::span<const float> a, std::span<const float> b);

// Scales `x` to length 1; false, and x is 0, where it has no direction.
bool Normalize(std::span<float> x);

struct Clusters {
  std::vector<float> centers;  // [clusters, dim] of length 1
  std::vector<int32_t> of;     // [rows] the cluster of each row: the center that is most like it
  std::vector<int64_t> sizes;  // [clusters]
};

// Rows [n, dim] of length 1 (rows of zeros count for nothing) in `num` clusters of any size, but
// none empty: a cluster with less than 1/16 of an even share starts again in the middle of the
// largest one. Ends when no row moves, or after 64 rounds. `stream` keeps draws of one `seed`
// apart. Clusters are in the order in which they were drawn.
//
// Returns no centers when the rows have fewer than `num` directions that can be told apart.
// Cost: n * num * dim per round.
Clusters ClusterDirections(std::span<const float> rows, int64_t dim, int num, uint64_t seed,
                           uint32_t stream);

}  // namespace tutti::upcycle
