/* native/scan.h, records.h and tabulate.h without Python, to be compiled with sanitizers: reads commands from stdin, prints what
 * each comes to.
 *
 * A command is a letter, a size of four bytes (little-endian), and that many bytes. Each frame is put into memory of its
 * very size, so that a byte read beyond it is found.
 */
#include <stdio.h>
#include <stdlib.h>

static long reallocs_left = 1000000000;

static void *realloc_if_any(void *known, size_t size) {
    return reallocs_left-- > 0 ? realloc(known, size) : NULL;
}
#define realloc realloc_if_any
#include "../../native/tabulate.h"

static struct vocabulary words;

/* Cut `line` at its spaces; the last field that is missing is empty. */
static void fields(char *line, char **found, int count) {
    for (int place = 0; place < count; place++) {
        found[place] = line;
        line += strcspn(line, " ");
        if (*line)
            *line++ = 0;
    }
}

static void scan(text frame, size_t size) {
    struct events events = {0};
    enum scanned scanned = scan_frame(frame, size, &words, 1, &events); /* grows with the second event */
    long decimals = 0, integers = 0;
    for (size_t place = 0; scanned == PLAIN && place < events.count; place++) {
        const struct event *event = &events.list[place];
        uint16_t numbers[] = {event->price, event->size_value, event->exact_size};
        struct decimal decimal;
        text begin;
        for (int number = 0; number < 3; number++)
            decimals += numbers[number] && decimal_at(event->begin + numbers[number], &decimal);
        integers += event->conditions && integers_at(event->begin + event->conditions, &begin, &size);
    }
    printf("%d %zu %ld %ld\n", scanned, scanned == PLAIN ? events.count : 0, decimals, integers);
    free(events.list);
}

static void cut(text data, size_t size) {
    struct records records = {0};
    enum scanned scanned = scan_records(data, size, &records);
    uint64_t sum = 0;
    for (size_t place = 0; scanned == PLAIN && place < records.count; place++) {
        const struct record *record = &records.list[place];
        text begins[] = {record->line + record->payload, record->line + record->symbol, record->line + record->type,
                         record->line + record->feed};
        size_t sizes[] = {record->payload_size, record->symbol_size, record->type_size, record->feed_size};
        for (int part = 0; part < 4; part++)
            for (size_t each = 0; each < sizes[part]; each++)
                sum += begins[part][each];
    }
    printf("%d %zu %llu\n", scanned, scanned == PLAIN ? records.count : 0, (unsigned long long)sum);
    free(records.list);
}

/* A column of each kind; every channel whose type is "T" has the fields of `tabulated` for those of events. */
static void tabulate(text data, size_t size) {
    static const char tabulated[EVENT_KINDS][NAME_SIZE_MAX] = {"i", "p", "x", "t", "c", "o", "bids"};
    struct records records = {0};
    struct table table = {.columns_count = KINDS, .mappings_count = 1};
    struct mapping *mapping = &table.mappings[0];
    unsigned char name[NAME_SIZE_MAX] = {'T'};
    mapping->name = packed(name, 1);
    memset(mapping->letters, NO_COLUMN, sizeof mapping->letters);
    for (int kind = 0; kind < KINDS; kind++)
        table.columns[kind].kind = (enum kind)kind;
    for (uint8_t kind = 0; kind < LEVELS; kind++)
        mapping->letters[(unsigned char)tabulated[kind][0]] = kind;
    mapping->longs[mapping->long_count].key = packed((text)tabulated[LEVELS], NAME_SIZE_MAX);
    mapping->longs[mapping->long_count++].column = LEVELS;
    bool is_made = scan_records(data, size, &records) == PLAIN && table_begin(&table, records.count);
    for (size_t row = 0; is_made && row < records.count; row++)
        is_made = put_record(&table, row, &records.list[row]);
    uint64_t valid = 0, sum = 0;
    for (int kind = 0; is_made && kind < KINDS; kind++) {
        valid += table.columns[kind].valid;
        for (int part = 1; part < PARTS_MAX; part++)
            for (size_t each = 0; each < table.columns[kind].parts[part].size; each++)
                sum += table.columns[kind].parts[part].bytes[each];
    }
    printf("%d %zu %llu %llu\n", is_made, is_made ? table.odd.size / sizeof(uint32_t) : 0, (unsigned long long)valid,
           (unsigned long long)sum);
    table_free(&table);
    free(records.list);
}

static void split(text data, size_t size) {
    text at = data, end = data + size;
    struct wire_frame frame = {0};
    long count = 0;
    while (wire_frame_at(at, end, 100, true, &frame) && !frame.odd_size) {
        at = frame.payload + frame.payload_size;
        count++;
    }
    printf("%ld %ld %llu\n", (long)(at - data), count, (unsigned long long)frame.odd_size);
}

int main(void) {
    for (int command; (command = getchar()) != EOF;) {
        unsigned char header[4];
        if (fread(header, 1, 4, stdin) != 4)
            return 2;
        size_t size = header[0] | (size_t)header[1] << 8 | (size_t)header[2] << 16 | (size_t)header[3] << 24;
        bool ends_with_nul = command != 'W'; /* wire bytes have their size alone */
        unsigned char *data = malloc(size + ends_with_nul);
        if (!data || fread(data, 1, size, stdin) != size)
            return 2;
        if (ends_with_nul)
            data[size] = 0;
        char *found[3];
        switch (command) {
        case 'V': /* the symbol field of the cluster */
            printf("%d\n", vocabulary_begin(&words, data, size));
            break;
        case 'C': /* a channel: code, symbol field, and `w` if it has windows */
            fields((char *)data, found, 3);
            printf("%d\n", vocabulary_add(&words, (text)found[0], strlen(found[0]), (text)found[1], strlen(found[1]),
                                          *found[2] == 'w'));
            break;
        case 'F':
            scan(data, size);
            break;
        case 'M': /* how often there is memory for more events, in digits */
            reallocs_left = strtol((char *)data, NULL, 10);
            break;
        case 'L': /* recorded lines */
            cut(data, size);
            break;
        case 'T': /* a table of them */
            tabulate(data, size);
            break;
        case 'W':
            split(data, size);
            break;
        default:
            return 2;
        }
        free(data);
    }
    return 0;
}
