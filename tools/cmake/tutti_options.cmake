# Language level, warnings, sanitizers, and what makes a build on two cores quick.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")  # what the sanitizers run on: lines, and quick to build
if(CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo)$" AND NOT CMAKE_CROSSCOMPILING)
  set(TUTTI_TEST_FLAGS -O0)  # sources of tests only: half their time in the compiler
endif()

set(TUTTI_SANITIZE "" CACHE STRING "Sanitizers, comma separated: address,undefined or thread")
option(TUTTI_FUZZ "Build the libFuzzer targets (needs clang)" OFF)
option(TUTTI_KERNELS_ONLY "Build the kernels and what is below them: no gRPC, protobuf, ..." OFF)

# docs/determinism.md, G1 and G2: the compiler may neither fuse nor reorder floating point.
add_compile_options(-ffp-contract=off -fno-fast-math -Wall -Wextra -Wno-missing-field-initializers)
include_directories("${CMAKE_SOURCE_DIR}")

if(TUTTI_SANITIZE)
  add_compile_options(-fsanitize=${TUTTI_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${TUTTI_SANITIZE})
  if(TUTTI_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(TUTTI_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_program(TUTTI_CCACHE ccache)
if(TUTTI_CCACHE)
  # Paths relative to the source tree and no directory in the hash: checkouts share one cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros ${TUTTI_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
find_program(TUTTI_LLD ld.lld)
if(TUTTI_LLD AND NOT CMAKE_CROSSCOMPILING)
  add_link_options(-fuse-ld=lld)
endif()
