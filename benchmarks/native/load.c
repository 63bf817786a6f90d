/* The load of the serving scenarios: plays frames into one program, reads what its clients get. One thread, one core.
 *
 *     load -d DATA -i INDEX [options] FEED_FD CLIENT_FD ...
 *
 * All sockets are connected, and have shaken hands, before they are handed over. DATA is what is written to FEED_FD,
 * again and again; INDEX cuts it into units (struct unit). Two ways to play:
 *   -w WEIGHT  as fast as the slowest client takes it: at most so much is on its way from FEED_FD to any client
 *   -r RATE    so many events a second, whatever happens; polls without sleeping, so that it is never late itself
 * A client's progress is counted in the unit's weights:
 *   -t         the bytes that arrive, thrown away unread in the kernel; right where frames arrive as they were sent
 *   -o BYTES   otherwise WebSocket frames are told apart: their payload, less so many bytes a frame
 *   -f COUNT   the first COUNT clients get everything; only they set the pace (default: all)
 *   -m         the last client looks for "ns":"<19 digits>" in what it gets: when a unit was due, against now
 *
 * Prints `ready`; then, for each line of stdin, what was counted so far, as JSON; latencies are those since the last
 * answer. At the end of stdin it stops playing, reads on until nothing has come for a second, answers once more, ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 256 * 1024,
    WRITE_BYTES = 256 * 1024,
    READY_MAX = 256,
    STAMP_DIGITS = 19,
    QUIET_MS = 1000,
    SETTLING_TIMES = 10,
    SAMPLES_MAX = 1 << 24,
};
static const char MARK[] = "\"ns\":\"";

struct unit {
    uint32_t size;   /* bytes in DATA */
    uint32_t weight; /* what a client that gets everything progresses by */
    uint32_t events;
    int32_t stamp; /* where its stamp goes; -1: nowhere */
};

struct client {
    int fd;
    bool ended;
    bool is_data; /* the frame that is being read */
    uint64_t bytes;
    int64_t progress;
    uint64_t left; /* bytes of that frame still to come */
    unsigned char head[10];
    unsigned head_size;
};

static const unsigned char *data;
static const struct unit *units;
static size_t data_size, unit_count;
static int feed_fd;
static struct client *clients;
static size_t client_count, full_count;

static int64_t window, overhead;
static double rate;
static bool truncates, measures;

/* What was played. */
static size_t unit_at, unit_offset, byte_at;
static uint64_t units_fed, events_fed;
static int64_t progress_fed;
static int64_t slowest; /* no full client has less, ended ones aside */
static uint64_t began_ns;
static bool stopping, blocked;
static unsigned char outgoing[WRITE_BYTES];
static size_t outgoing_size, outgoing_at;

/* What was seen. */
static uint64_t bytes_read, ended, last_read_ns;
static uint64_t *samples;
static size_t sample_count;
static uint64_t samples_from_ns; /* what was due earlier is not sampled */
static unsigned mark_matched;
static uint64_t stamp_value;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- reading ---- */

static void find_stamps(const unsigned char *bytes, size_t size, uint64_t at_ns) {
    const unsigned mark_size = sizeof MARK - 1;
    for (size_t i = 0; i < size; i++) {
        if (mark_matched < mark_size) {
            if (bytes[i] == (unsigned char)MARK[mark_matched])
                mark_matched++;
            else
                mark_matched = bytes[i] == (unsigned char)MARK[0];
            stamp_value = 0;
        } else {
            stamp_value = stamp_value * 10 + (bytes[i] - '0');
            if (++mark_matched == mark_size + STAMP_DIGITS) {
                if (sample_count < SAMPLES_MAX && stamp_value >= samples_from_ns)
                    samples[sample_count++] = at_ns > stamp_value ? at_ns - stamp_value : 0;
                mark_matched = 0;
            }
        }
    }
}

/* RFC 6455, 5.2; a server's frames have no mask. */
static void take_head(struct client *client) {
    const unsigned char *head = client->head;
    unsigned short_size = head[1] & 127;
    unsigned wanted = short_size < 126 ? 2 : short_size == 126 ? 4 : 10;
    if (client->head_size < wanted)
        return;
    client->left = wanted == 2 ? short_size : 0;
    for (unsigned i = 2; i < wanted; i++)
        client->left = client->left << 8 | head[i];
    client->is_data = (head[0] & 15) < 8;
    if (client->is_data)
        client->progress -= overhead;
    client->head_size = 0;
}

static void take(struct client *client, const unsigned char *bytes, size_t size, bool measured, uint64_t at_ns) {
    while (size) {
        if (!client->left) {
            client->head[client->head_size++] = *bytes++;
            size--;
            if (client->head_size >= 2)
                take_head(client);
            continue;
        }
        size_t part = size < client->left ? size : client->left;
        if (client->is_data) {
            client->progress += (int64_t)part;
            if (measured)
                find_stamps(bytes, part, at_ns);
        }
        client->left -= part;
        bytes += part;
        size -= part;
    }
}

static void read_client(struct client *client) {
    static unsigned char buffer[READ_BYTES];
    bool measured = measures && client == &clients[client_count - 1];
    bool unread = truncates && !measured;
    ssize_t size = recv(client->fd, buffer, sizeof buffer, MSG_DONTWAIT | (unread ? MSG_TRUNC : 0));
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        if (!client->ended) {
            client->ended = true;
            ended++;
            close(client->fd);
        }
        return;
    }
    uint64_t at_ns = now_ns();
    last_read_ns = at_ns;
    bytes_read += (uint64_t)size;
    client->bytes += (uint64_t)size;
    if (unread)
        client->progress += size;
    else if (truncates) {
        int64_t before = client->progress;
        take(client, buffer, (size_t)size, measured, at_ns);
        client->progress = before + size;
    } else
        take(client, buffer, (size_t)size, measured, at_ns);
}

/* ---- playing ---- */

static void unit_done(void) {
    const struct unit *unit = &units[unit_at];
    units_fed++;
    events_fed += unit->events;
    progress_fed += unit->weight;
    unit_at = (unit_at + 1) % unit_count;
}

/* Gives the bytes that left; 0 where the socket takes nothing. */
static size_t write_feed(const unsigned char *bytes, size_t size) {
    ssize_t sent = send(feed_fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            fail("the program that is fed went away");
        blocked = true;
        return 0;
    }
    return (size_t)sent;
}

static void find_slowest(void) {
    slowest = progress_fed;
    for (size_t i = 0; i < full_count; i++)
        if (!clients[i].ended && clients[i].progress < slowest)
            slowest = clients[i].progress;
}

static bool play_window(void) {
    size_t size;
    if (stopping) {
        if (!unit_offset)
            return false;
        size = units[unit_at].size - unit_offset; /* no torn frame at the end */
    } else {
        if (progress_fed - slowest >= window)
            find_slowest();
        int64_t allowed = window - (progress_fed - slowest);
        if (allowed <= 0)
            return false;
        size = data_size - byte_at;
        if (size > WRITE_BYTES)
            size = WRITE_BYTES;
        if ((int64_t)size > allowed)
            size = (size_t)allowed;
    }
    size_t sent = write_feed(data + byte_at, size);
    byte_at = (byte_at + sent) % data_size;
    for (unit_offset += sent; unit_offset >= units[unit_at].size;) {
        unit_offset -= units[unit_at].size;
        unit_done();
    }
    return sent > 0;
}

static bool play_rate(void) {
    if (outgoing_at == outgoing_size && !stopping) {
        outgoing_at = outgoing_size = 0;
        uint64_t now = now_ns();
        for (;;) {
            const struct unit *unit = &units[unit_at];
            uint64_t due_ns = began_ns + (uint64_t)((double)(events_fed + unit->events) * 1e9 / rate);
            if (due_ns > now || outgoing_size + unit->size > sizeof outgoing)
                break;
            memcpy(outgoing + outgoing_size, data + byte_at, unit->size);
            if (unit->stamp >= 0) {
                unsigned char *digits = outgoing + outgoing_size + unit->stamp;
                for (int i = STAMP_DIGITS - 1; i >= 0; i--, due_ns /= 10)
                    digits[i] = (unsigned char)('0' + due_ns % 10);
            }
            outgoing_size += unit->size;
            byte_at = (byte_at + unit->size) % data_size;
            unit_done();
        }
    }
    if (outgoing_at < outgoing_size)
        outgoing_at += write_feed(outgoing + outgoing_at, outgoing_size - outgoing_at);
    return outgoing_at < outgoing_size;
}

/* ---- answering ---- */

static int compare(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static uint64_t percentile(double share) {
    size_t place = (size_t)(share * (double)sample_count);
    return samples[place < sample_count ? place : sample_count - 1];
}

static void answer(void) {
    uint64_t began = now_ns();
    printf("{\"at_ns\":%llu,\"units\":%llu,\"events\":%llu,\"progress\":%lld,\"bytes\":%llu,\"ended\":%llu",
           (unsigned long long)now_ns(), (unsigned long long)units_fed, (unsigned long long)events_fed,
           (long long)progress_fed, (unsigned long long)bytes_read, (unsigned long long)ended);
    find_slowest();
    printf(",\"slowest\":%lld,\"latencies\":%zu", (long long)slowest, sample_count);
    if (sample_count) {
        qsort(samples, sample_count, sizeof *samples, compare);
        printf(",\"p50_ns\":%llu,\"p99_ns\":%llu,\"p999_ns\":%llu,\"max_ns\":%llu",
               (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.99),
               (unsigned long long)percentile(0.999), (unsigned long long)samples[sample_count - 1]);
    }
    printf(",\"clients\":[");
    for (size_t i = 0; i < client_count; i++)
        printf("%s%lld", i ? "," : "", (long long)clients[i].progress);
    printf("]}\n");
    fflush(stdout);
    sample_count = 0;
    /* Meanwhile nothing was played or read: what was due then, and what it holds up, says nothing of the program. */
    uint64_t now = now_ns();
    samples_from_ns = now + SETTLING_TIMES * (now - began);
}

/* ---- starting ---- */

static const void *mapped(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        fail(path);
    void *found = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (found == MAP_FAILED)
        fail(path);
    *size = (size_t)status.st_size;
    return found;
}

static void watch(int poll, int fd, uint32_t events, void *who) {
    struct epoll_event event = {.events = events, .data.ptr = who};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static int start(int argc, char **argv) {
    size_t index_size = 0;
    int option;
    while ((option = getopt(argc, argv, "d:i:w:r:o:f:tm")) != -1) {
        switch (option) {
        case 'd': data = mapped(optarg, &data_size); break;
        case 'i': units = mapped(optarg, &index_size); break;
        case 'w': window = atoll(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'o': overhead = atoll(optarg); break;
        case 'f': full_count = (size_t)atoll(optarg); break;
        case 't': truncates = true; break;
        case 'm': measures = true; break;
        default: exit(2);
        }
    }
    unit_count = index_size / sizeof *units;
    if (!data_size || !unit_count || argc - optind < 2 || (window > 0) == (rate > 0)) {
        fprintf(stderr, "usage: load -d DATA -i INDEX (-w WEIGHT | -r RATE) [-o BYTES] [-f COUNT] [-tm] FEED CLIENT ...\n");
        exit(2);
    }
    feed_fd = atoi(argv[optind++]);
    client_count = (size_t)(argc - optind);
    if (!full_count || full_count > client_count)
        full_count = client_count;
    clients = calloc(client_count, sizeof *clients);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    int poll = epoll_create1(0);
    if (!clients || !samples || poll < 0)
        fail("start");
    for (size_t i = 0; i < client_count; i++) {
        clients[i].fd = atoi(argv[optind + (int)i]);
        watch(poll, clients[i].fd, EPOLLIN, &clients[i]);
    }
    watch(poll, feed_fd, EPOLLIN | EPOLLOUT | EPOLLET, &feed_fd);
    watch(poll, STDIN_FILENO, EPOLLIN, NULL);
    return poll;
}

/* Reads commands, and throws away what the fed program says. */
static void attend(const struct epoll_event *event) {
    static char words[4096];
    if (event->data.ptr == &feed_fd) {
        if (event->events & EPOLLOUT)
            blocked = false;
        while (recv(feed_fd, words, sizeof words, MSG_DONTWAIT) > 0)
            ;
        return;
    }
    ssize_t size = read(STDIN_FILENO, words, sizeof words);
    for (ssize_t i = 0; i < size; i++)
        answer();
    if (size <= 0)
        stopping = true;
}

int main(int argc, char **argv) {
    int poll = start(argc, argv);
    puts("ready");
    fflush(stdout);
    struct epoll_event ready[READY_MAX];
    int ready_count = 0, next = 0;
    struct client *measured = measures ? &clients[client_count - 1] : NULL;
    began_ns = last_read_ns = now_ns();
    uint64_t stopped_ns = 0;
    for (;;) {
        /* Between any two reads: play what is due, and look at the client whose latency is measured. */
        bool more = !blocked && (rate > 0 ? play_rate() : play_window());
        if (measured && !measured->ended)
            read_client(measured);
        if (next < ready_count) {
            struct epoll_event *event = &ready[next++];
            void *who = event->data.ptr;
            if (who == NULL && stopping)
                continue;
            if (who == NULL || who == &feed_fd)
                attend(event);
            else if (who != measured && !((struct client *)who)->ended)
                read_client(who);
            continue;
        }
        if (stopping) {
            uint64_t now = now_ns();
            if (!stopped_ns) {
                stopped_ns = now;
                epoll_ctl(poll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            }
            uint64_t since_ns = last_read_ns > stopped_ns ? last_read_ns : stopped_ns;
            if (now - since_ns > (uint64_t)QUIET_MS * 1000000u) {
                answer();
                return 0;
            }
        }
        int wait_ms = rate > 0 || more ? 0 : stopping ? 50 : -1;
        ready_count = epoll_wait(poll, ready, READY_MAX, wait_ms);
        next = 0;
        if (ready_count < 0)
            ready_count = 0;
    }
}
