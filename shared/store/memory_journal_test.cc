#include "shared/store/journal_conformance.h"

namespace tutti::store {

INSTANTIATE_TEST_SUITE_P(Memory, JournalConformance,
                         ::testing::Values(JournalFactory([](const JournalOptions& o) {
                           return MakeMemoryJournal(o);
                         })));

}  // namespace tutti::store
