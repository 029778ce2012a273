#include "shared/shm/ring.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <vector>

namespace tutti::shm {
namespace {

class RingTest : public ::testing::Test {
 protected:
  static constexpr size_t kSize = 4096;
  bool Write(size_t bytes, int fill) {
    std::byte* const at = writer_.Reserve(bytes);
    if (at == nullptr) return false;
    std::memset(at, fill, bytes);
    writer_.Publish();
    return true;
  }
  // "fill x length", "" when there is none; every byte must be the same.
  std::string Read() {
    const auto m = reader_.Next();
    if (!m) return "";
    for (const std::byte b : *m) EXPECT_EQ(b, m->front());
    return std::to_string(m->empty() ? 0 : static_cast<int>(m->front())) + "x" +
           std::to_string(m->size());
  }

  RingControl control_{};
  alignas(kLine) std::array<std::byte, kSize> data_{};
  RingWriter writer_{&control_, data_.data(), kSize};
  RingReader reader_{&control_, data_.data(), kSize};
};

TEST_F(RingTest, MessagesArriveInOrder) {
  EXPECT_EQ(Read(), "");
  EXPECT_TRUE(Write(10, 1));
  EXPECT_TRUE(Write(0, 2));
  EXPECT_TRUE(Write(64, 3));
  EXPECT_EQ(Read(), "1x10");
  EXPECT_EQ(Read(), "0x0");
  EXPECT_EQ(Read(), "3x64");
  EXPECT_EQ(Read(), "");
}

TEST_F(RingTest, AFullRingTakesNothingUntilRoomIsGivenBack) {
  EXPECT_EQ(writer_.Reserve(writer_.max_message() + 1), nullptr);
  ASSERT_TRUE(Write(writer_.max_message(), 1));
  ASSERT_TRUE(Write(writer_.max_message(), 2));
  EXPECT_FALSE(Write(0, 3));
  EXPECT_EQ(Read(), "1x1984");
  EXPECT_FALSE(Write(0, 3));  // not released yet
  reader_.Release();
  EXPECT_TRUE(Write(0, 3));
  EXPECT_EQ(Read(), "2x1984");
  EXPECT_EQ(Read(), "0x0");
}

TEST_F(RingTest, AnEmptyRingTakesAnyMessage) {
  for (size_t bytes = 0; bytes <= writer_.max_message(); bytes += 8) {
    ASSERT_TRUE(Write(bytes, 1)) << bytes;
    ASSERT_NE(Read(), "") << bytes;
    reader_.Release();
    ASSERT_TRUE(Write(writer_.max_message() - bytes % 512, 1)) << bytes;
    ASSERT_NE(Read(), "") << bytes;
    reader_.Release();
  }
}

TEST_F(RingTest, MessagesThatAreReadAtOnceKeepToAQuarter) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(Write(100, i));
    const auto m = reader_.Next();
    ASSERT_TRUE(m.has_value());
    EXPECT_LT(m->data(), data_.data() + kSize / 4 + kLine) << i;
    reader_.Release();
  }
}

TEST_F(RingTest, RandomMessagesComeOutAsTheyWentIn) {
  std::mt19937 random(1);
  std::deque<std::string> sent;
  int fill = 0, full = 0;
  for (int i = 0; i < 200'000; ++i) {
    if (random() % 2 == 0) {
      const size_t bytes = 1 + random() % (random() % 8 == 0 ? writer_.max_message() : 200);
      fill = (fill + 1) % 256;
      if (Write(bytes, fill)) {
        sent.push_back(std::to_string(fill) + "x" + std::to_string(bytes));
      } else {
        ++full;
      }
    } else if (!sent.empty()) {
      ASSERT_EQ(Read(), sent.front());
      sent.pop_front();
      if (random() % 3 != 0) reader_.Release();
    } else {
      ASSERT_EQ(Read(), "");
      reader_.Release();
    }
  }
  EXPECT_GT(full, 1000);
  EXPECT_FALSE(writer_.broken());
  EXPECT_FALSE(reader_.broken());
}

// Whatever the other side writes: no access outside, and nothing comes any more.
TEST_F(RingTest, AHostileWriterIsNoticed) {
  std::mt19937_64 random(2);
  int broken = 0;
  for (int i = 0; i < 20'000; ++i) {
    control_.tail = control_.head = 0;
    RingWriter writer(&control_, data_.data(), kSize);
    RingReader reader(&control_, data_.data(), kSize);
    for (int m = 0; m < 3; ++m) {
      if (writer.Reserve(random() % 500) != nullptr) writer.Publish();
    }
    if (random() % 2 == 0) {
      control_.tail = random() % 3 == 0 ? random() : random() % (3 * kSize);
    } else {
      const auto junk = static_cast<uint32_t>(random() % 4 == 0 ? random() : random() % 8192);
      std::memcpy(data_.data() + 4, &junk, sizeof(junk));  // the length of the first
    }
    size_t bytes = 0;
    while (const auto m = reader.Next()) {
      ASSERT_GE(m->data(), data_.data());
      ASSERT_LE(m->data() + m->size(), data_.data() + kSize);
      bytes += m->size();
      ASSERT_LE(bytes, kSize);
    }
    if (reader.broken()) ++broken;
  }
  EXPECT_GT(broken, 5000);
}

TEST_F(RingTest, AHostileReaderIsNoticed) {
  ASSERT_TRUE(Write(10, 1));
  control_.head = 4096;  // it cannot have read so much
  EXPECT_EQ(writer_.Reserve(10), nullptr);
  EXPECT_TRUE(writer_.broken());
}

TEST_F(RingTest, TheWriterWakesASleeperOnce) {
  EXPECT_FALSE(writer_.TakeSleeping());
  EXPECT_TRUE(reader_.PrepareSleep());
  ASSERT_TRUE(Write(1, 1));
  EXPECT_TRUE(writer_.TakeSleeping());
  EXPECT_FALSE(writer_.TakeSleeping());
  EXPECT_FALSE(reader_.PrepareSleep());  // something is there: it does not sleep
}

TEST_F(RingTest, TwoThreads) {
  constexpr int kMessages = 100'000;
  std::thread writer([&] {
    for (int i = 0; i < kMessages;) {
      std::byte* const at = writer_.Reserve(sizeof(i) + static_cast<size_t>(i) % 300);
      if (at == nullptr) {
        std::this_thread::yield();
        continue;
      }
      std::memcpy(at, &i, sizeof(i));
      writer_.Publish();
      ++i;
    }
  });
  for (int i = 0; i < kMessages;) {
    const auto m = reader_.Next();
    if (!m) {
      reader_.Release();
      std::this_thread::yield();
      continue;
    }
    int got;
    std::memcpy(&got, m->data(), sizeof(got));
    EXPECT_EQ(got, i);
    EXPECT_EQ(m->size(), sizeof(i) + static_cast<size_t>(i) % 300);
    if (i % 3 == 0) reader_.Release();
    ++i;
  }
  writer.join();
  EXPECT_FALSE(reader_.broken());
}

}  // namespace
}  // namespace tutti::shm
