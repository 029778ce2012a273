#include "tools/cli/commands.h"

int main(int argc, char** argv) { return tutti::cli::Main(argc, argv); }
