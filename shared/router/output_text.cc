#include "shared/router/output_text.h"

namespace tutti::router {

OutputText::OutputText(std::shared_ptr<const tokenizer::TokenDecoder> decoder,
                       const TextOptions& options)
    : decoder_(std::move(decoder), options.skip_special),
      matcher_(options.stops),
      include_stop_(options.include_stop),
      tokens_before_stops_(options.min_tokens) {}

OutputText::Piece OutputText::Push(int32_t id, bool hidden) {
  std::string text = hidden ? std::string() : decoder_.Push(id);
  if (tokens_before_stops_ > 0) {
    --tokens_before_stops_;
    return {std::move(text), -1};
  }
  StopMatcher::Result r = matcher_.Push(text, include_stop_);
  return {std::move(r.text), r.matched};
}

OutputText::Piece OutputText::Flush() {
  StopMatcher::Result r = matcher_.Push(decoder_.Flush(), include_stop_);
  if (r.matched < 0) r.text += matcher_.Flush();
  return {std::move(r.text), r.matched};
}

}  // namespace tutti::router
