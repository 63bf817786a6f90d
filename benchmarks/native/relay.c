/* The least that a server can do: what it reads from one socket it writes to all the others, as it came.
 *
 *     relay UPSTREAM_FD CLIENT_FD ...
 *
 * It waits for each client, so the slowest one sets the pace. Prints `ready`; ends with UPSTREAM_FD.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024 };

int main(int argc, char **argv) {
    static char buffer[READ_BYTES];
    if (argc < 3) {
        fprintf(stderr, "usage: relay UPSTREAM CLIENT ...\n");
        return 2;
    }
    int client_count = argc - 2;
    int *clients = malloc((size_t)client_count * sizeof *clients);
    if (!clients)
        return 1;
    for (int i = 0; i < client_count; i++)
        clients[i] = atoi(argv[i + 2]);
    puts("ready");
    fflush(stdout);
    ssize_t size;
    while ((size = read(atoi(argv[1]), buffer, sizeof buffer)) > 0)
        for (int i = 0; i < client_count; i++)
            for (ssize_t sent = 0, part; sent < size; sent += part)
                if ((part = send(clients[i], buffer + sent, (size_t)(size - sent), MSG_NOSIGNAL)) < 0) {
                    perror("a client went away");
                    return 1;
                }
    return 0;
}
