// Memory for keys and values: fixed pages of 16 positions, shared by reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kv_page.h"
#include "shared/base/status.h"
#include "shared/tensor/dtype.h"

namespace tutti::kv_cache {

inline constexpr int kPageTokens = kernels::kPagePositions;
using PageId = int32_t;

// Where a layer's and head's K and V lie inside a page. One page holds 16 positions of ALL layers:
// per layer and KV head, K and then V, each as kernels/kv_page.h lays them out.
struct PageLayout {
  int num_layers = 0, num_kv_heads = 0;
  int head_dim = 0;           // of K
  int v_head_dim = 0;         // of V; 0: values are part of the keys (latent attention)
  DType dtype = DType::kF16;  // F16, F32 or Q8_0; changes the answer: part of the fingerprint
  // Behind K and V: what a mixture with a limit per expert must know of earlier positions, so many
  // bytes for each of its layers (moe::RecordBytes). 0 for all other models.
  size_t routing_bytes = 0;

  size_t HeadBytes() const {
    return kernels::KeyBytes(dtype, head_dim) + kernels::ValueBytes(dtype, v_head_dim);
  }
  size_t KOffset(int layer, int head) const {
    return (static_cast<size_t>(layer) * num_kv_heads + head) * HeadBytes();
  }
  size_t VOffset(int layer, int head) const {
    return KOffset(layer, head) + kernels::KeyBytes(dtype, head_dim);
  }
  size_t RoutingOffset() const {
    return static_cast<size_t>(num_layers) * num_kv_heads * HeadBytes();
  }
  size_t PageBytes() const { return RoutingOffset() + (routing_bytes + 63) / 64 * 64; }
};

// A fixed number of pages in one reservation of address space; memory is committed when a page is
// first written. A page is free, or has one or more owners; the last Unref frees it.
// Thread safety: none; the engine's thread owns it. Data() of an owned page may be used by the
// forward pass's threads.
class PagePool {
 public:
  // When the address space cannot be reserved, num_pages() is 0.
  PagePool(const PageLayout& layout, int32_t num_pages);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A page with one owner. Its content is unspecified. Lowest free id first (the same run gives the
  // same ids). Errors: RESOURCE_EXHAUSTED  none is free
  absl::StatusOr<PageId> Allocate();
  void Ref(PageId page);
  void Unref(PageId page);
  int32_t RefCount(PageId page) const;  // 0: free

  // Which expert shards' rows the page's content was made with, a bit for each
  // (model::StepOutput::made_by); 0 for a new page.
  void AddMakers(PageId page, uint64_t made_by) { made_by_[static_cast<size_t>(page)] |= made_by; }
  uint64_t MadeBy(PageId page) const { return made_by_[static_cast<size_t>(page)]; }

  // Gives the memory of all free pages back to the operating system (they stay allocatable). One
  // pass over all pages: for idle moments, not for every step.
  void TrimFree();

  std::byte* Data(PageId page) { return base_ + static_cast<size_t>(page) * stride_; }
  const std::byte* Data(PageId page) const { return base_ + static_cast<size_t>(page) * stride_; }
  const PageLayout& layout() const { return layout_; }
  int32_t num_pages() const { return num_pages_; }
  int32_t num_free() const { return num_free_; }

 private:
  PageLayout layout_;
  int32_t num_pages_ = 0, num_free_ = 0;
  size_t stride_ = 0;
  std::byte* base_ = nullptr;
  std::vector<int32_t> refs_;
  std::vector<uint64_t> made_by_;
  std::vector<PageId> heap_;  // free ids, a min-heap
};

}  // namespace tutti::kv_cache
