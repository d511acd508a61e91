/* load: both ends of the benchmark, `load node` behind the proxy and `load drive` before it. */
#include "load.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    raise_file_limit();
    if (argc > 1 && strcmp(argv[1], "node") == 0)
        return node_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "drive") == 0)
        return drive_main(argc - 1, argv + 1);
    fail("usage: load node [PORT] | load drive MODE --port N ...");
}
