// tutti-draft: a decoder that runs ahead of targets. See options.cc for the flags, README.md for
// the rest.
#include "services/target/options.h"

int main(int argc, char** argv) { return tutti::target::RunProgram(argc, argv, true); }
