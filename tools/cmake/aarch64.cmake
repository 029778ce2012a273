# Builds for AArch64 on another machine; tests run under qemu-user. Preset `neon`, tools/test neon.
#
# The compiler brings the C and C++ libraries of the target. The other libraries lie in
# build-neon/packages, which tools/arm64-packages fills.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

get_filename_component(tutti_packages "${CMAKE_CURRENT_LIST_DIR}/../../build-neon/packages" ABSOLUTE)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu
    -E LD_LIBRARY_PATH=${tutti_packages}/usr/lib/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH "${tutti_packages}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${tutti_packages}")
set(ENV{PKG_CONFIG_LIBDIR} "${tutti_packages}/usr/lib/aarch64-linux-gnu/pkgconfig")
