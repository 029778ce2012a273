// tutti-target: see options.cc for the flags, README.md for the rest.
#include "services/target/options.h"

int main(int argc, char** argv) { return tutti::target::RunProgram(argc, argv, false); }
