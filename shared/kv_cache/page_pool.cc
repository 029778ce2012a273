#include "shared/kv_cache/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "shared/base/check.h"

namespace tutti::kv_cache {

namespace {

// Pages start on a cache line, so that kernels may load aligned vectors.
constexpr size_t kAlignBytes = 64;

}  // namespace

PagePool::PagePool(const PageLayout& layout, int32_t num_pages) : layout_(layout) {
  stride_ = (layout.PageBytes() + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
  if (num_pages <= 0 || stride_ == 0) return;
  if (static_cast<size_t>(num_pages) > std::numeric_limits<size_t>::max() / 2 / stride_) return;
  // Address space only: a page's memory is committed by the first write to it.
  void* base = mmap(nullptr, stride_ * static_cast<size_t>(num_pages), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return;
  // One head's keys of consecutive pages lie PageBytes() apart: with 4 KB pages of the system each
  // is a miss of the TLB. Where there are no huge pages this changes nothing.
  madvise(base, stride_ * static_cast<size_t>(num_pages), MADV_HUGEPAGE);
  base_ = static_cast<std::byte*>(base);
  num_pages_ = num_free_ = num_pages;
  refs_.assign(static_cast<size_t>(num_pages), 0);
  made_by_.assign(static_cast<size_t>(num_pages), 0);
  heap_.resize(static_cast<size_t>(num_pages));
  std::iota(heap_.begin(), heap_.end(), 0);  // ascending order is a min-heap
}

PagePool::~PagePool() {
  if (base_ != nullptr) munmap(base_, stride_ * static_cast<size_t>(num_pages_));
}

absl::StatusOr<PageId> PagePool::Allocate() {
  if (num_free_ == 0) {
    return WithReason(absl::ResourceExhaustedError("kv_cache: all pages are in use"),
                      "KV_PAGES_FULL");
  }
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  const PageId page = heap_.back();
  heap_.pop_back();
  --num_free_;
  refs_[static_cast<size_t>(page)] = 1;
  made_by_[static_cast<size_t>(page)] = 0;
  return page;
}

void PagePool::Ref(PageId page) {
  TUTTI_CHECK(page >= 0 && page < num_pages_ && refs_[static_cast<size_t>(page)] > 0);
  ++refs_[static_cast<size_t>(page)];
}

void PagePool::Unref(PageId page) {
  TUTTI_CHECK(page >= 0 && page < num_pages_ && refs_[static_cast<size_t>(page)] > 0);
  if (--refs_[static_cast<size_t>(page)] > 0) return;
  heap_.push_back(page);
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  ++num_free_;
}

int32_t PagePool::RefCount(PageId page) const {
  TUTTI_CHECK(page >= 0 && page < num_pages_);
  return refs_[static_cast<size_t>(page)];
}

void PagePool::TrimFree() {
  if (num_free_ == 0) return;
  std::vector<bool> is_free(static_cast<size_t>(num_pages_), false);
  for (PageId page : heap_) is_free[static_cast<size_t>(page)] = true;
  constexpr size_t kOsPage = 4096;
  for (int32_t begin = 0; begin < num_pages_; ++begin) {
    if (!is_free[static_cast<size_t>(begin)]) continue;
    int32_t end = begin;
    while (end < num_pages_ && is_free[static_cast<size_t>(end)]) ++end;
    // Whole operating system pages inside the run; the reservation itself is aligned to them.
    const size_t from = (static_cast<size_t>(begin) * stride_ + kOsPage - 1) / kOsPage * kOsPage;
    const size_t to = static_cast<size_t>(end) * stride_ / kOsPage * kOsPage;
    if (from < to) madvise(base_ + from, to - from, MADV_DONTNEED);
    begin = end;
  }
}

}  // namespace tutti::kv_cache
