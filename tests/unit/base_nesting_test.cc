// How deeply text nests.
#include <gtest/gtest.h>

#include <string>

#include "base/nesting.h"

namespace baton {
namespace {

TEST(Nesting, CountsWhatIsOpen) {
  EXPECT_FALSE(nests_deeper("", 0));
  EXPECT_FALSE(nests_deeper("7", 0));
  EXPECT_FALSE(nests_deeper(R"([1,[2],{"a":[]}])", 3));
  EXPECT_TRUE(nests_deeper(R"([1,[2],{"a":[]}])", 2));
  EXPECT_FALSE(nests_deeper("[],[],[],{},{}", 1));
}

TEST(Nesting, BracketsInStringsCountForNothing) {
  EXPECT_FALSE(nests_deeper(R"(["[[[[", "\"[[[[", "\\"])", 1));
  EXPECT_TRUE(nests_deeper(R"(["\\", [[1]]])", 2));
}

TEST(Nesting, AMegabyteOfBracketsIsTooMuch) {
  EXPECT_TRUE(nests_deeper(std::string(1 << 20, '[')));
  EXPECT_TRUE(nests_deeper("{\"body\":" + std::string(1 << 20, '[')));
}

}  // namespace
}  // namespace baton
