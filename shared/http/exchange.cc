#include "shared/http/exchange.h"

#include <utility>

#include "shared/http/exchange_core.h"

namespace tutti::http {

void ExchangeCore::Notify(std::unique_lock<std::mutex> lock) {
  if (gone_ || std::exchange(notified_, true) || !news_) return;
  auto news = news_;
  lock.unlock();
  loop_->Post(std::move(news));
}

void ExchangeCore::Respond(Response response, bool stream, std::string filler) {
  std::function<void()> drained, gone;  // no use for them after the end
  std::unique_lock lock(mutex_);
  if (std::exchange(answered_, true)) return;
  stream_ = stream;
  filler_ = std::move(filler);
  if (stream) {
    data_ = std::exchange(response.body, {});
    unsent_ = data_.size();
  } else {
    ended_ = true;
    drained.swap(on_drained_);
    gone.swap(on_gone_);
  }
  head_ = std::move(response);
  Notify(std::move(lock));
}

void ExchangeCore::Write(std::string_view piece) {
  std::unique_lock lock(mutex_);
  if (!stream_ || ended_ || gone_ || piece.empty()) return;
  data_.append(piece);
  unsent_ = data_.size();
  Notify(std::move(lock));
}

void ExchangeCore::End(bool complete) {
  std::function<void()> drained, gone;
  std::unique_lock lock(mutex_);
  if (!stream_ || ended_) return;
  ended_ = true;
  broken_ = !complete;
  drained.swap(on_drained_);
  gone.swap(on_gone_);
  Notify(std::move(lock));
}

void ExchangeCore::HandlerGone() {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
  }
  Respond({.status = 500}, false, "");
  End(false);
}

void ExchangeCore::OnDrained(std::function<void()> drained) {
  std::unique_lock lock(mutex_);
  if (data_.empty() || gone_) {
    lock.unlock();
    loop_->Post(std::move(drained));
    return;
  }
  on_drained_ = std::move(drained);
}

void ExchangeCore::OnGone(std::function<void()> gone) {
  std::unique_lock lock(mutex_);
  if (gone_) {
    lock.unlock();
    loop_->Post(std::move(gone));
    return;
  }
  on_gone_ = std::move(gone);
}

ExchangeCore::News ExchangeCore::Take() {
  News news;
  std::function<void()> drained;
  {
    std::lock_guard lock(mutex_);
    notified_ = false;
    news.head = std::exchange(head_, std::nullopt);
    news.stream = stream_;
    news.data = std::exchange(data_, {});
    unsent_ = 0;
    news.ended = ended_;
    news.broken = broken_;
    drained = std::exchange(on_drained_, nullptr);
  }
  if (drained) loop_->Post(std::move(drained));
  return news;
}

bool ExchangeCore::HasEnded() const {
  std::lock_guard lock(mutex_);
  return ended_;
}

std::string ExchangeCore::filler() const {
  std::lock_guard lock(mutex_);
  return filler_;
}

void ExchangeCore::ClientGone() {
  std::function<void()> drained, gone;
  {
    std::lock_guard lock(mutex_);
    if (gone_.exchange(true)) return;
    news_ = nullptr;
    data_ = {};
    unsent_ = 0;
    drained = std::exchange(on_drained_, nullptr);
    gone = std::exchange(on_gone_, nullptr);
  }
  if (gone) loop_->Post(std::move(gone));
  if (drained) loop_->Post(std::move(drained));
}

Exchange::Exchange(std::shared_ptr<ExchangeCore> core) : core_(std::move(core)) {}
Exchange::~Exchange() { core_->HandlerGone(); }
const Request& Exchange::request() const { return core_->request(); }
std::chrono::steady_clock::time_point Exchange::start() const { return core_->start; }
void Exchange::Respond(Response response) { core_->Respond(std::move(response), false, ""); }
void Exchange::StartStream(Response response, std::string filler) {
  core_->Respond(std::move(response), true, std::move(filler));
}
void Exchange::Write(std::string_view piece) { core_->Write(piece); }
void Exchange::Finish() { core_->End(true); }
void Exchange::Break() { core_->End(false); }
size_t Exchange::unsent() const { return core_->unsent(); }
void Exchange::OnDrained(std::function<void()> drained) { core_->OnDrained(std::move(drained)); }
bool Exchange::gone() const { return core_->gone(); }
void Exchange::OnGone(std::function<void()> gone) { core_->OnGone(std::move(gone)); }

}  // namespace tutti::http
