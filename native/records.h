/* What is read of recorded lines (docs/records.md), free of Python: where everything stands in lines of the usual form.
 *
 * As in scan.h, each rule accepts what the recorder itself writes of plain events, and refuses everything else.
 */
#pragma once
#include "scan.h"

struct record {
    text line; /* its opening brace */
    uint64_t seq;
    int64_t ingest_ms, time_ms;
    uint32_t size; /* of the line with its line end; no place within is larger */
    uint32_t payload, payload_size;
    uint32_t symbol, symbol_size;
    uint16_t type, type_size;
    uint32_t feed, feed_size;
};

/* Records of a block, in the order of their numbers; all zero before the first. */
struct records {
    struct record *list; /* of malloc: free it */
    size_t count, room;
};

#define PASS(at, end, literal) pass(at, end, literal, sizeof(literal) - 1)

/* Return what follows these bytes; NULL where others stand there. */
static inline text pass(text at, text end, const char *literal, size_t size) {
    return (size_t)(end - at) >= size && !memcmp(at, literal, size) ? at + size : NULL;
}

/* Read a number that is no larger than int64_t can be: without sign, and without a zero before it. */
static inline text natural(text at, uint64_t *found) {
    enum { DIGITS_MAX = 18 };
    text begin = at;
    uint64_t sum = 0;
    for (; is_digit(*at); at++) {
        if (at - begin == DIGITS_MAX)
            return NULL;
        sum = sum * 10 + (uint64_t)(*at - '0');
    }
    *found = sum;
    return at == begin || (*begin == '0' && at - begin > 1) ? NULL : at;
}

/* Read the text up to its closing quote; let `begin` and `size` be its place in the line. Return what follows the quote. */
static inline text quoted(text line, text at, uint32_t *begin, uint32_t *size) {
    text close = string_rest(at);
    if (!close || close - line > UINT16_MAX)
        return NULL;
    *begin = (uint32_t)(at - line);
    *size = (uint32_t)(close - at);
    return close + 1;
}

/* Read what stands behind the payload, up to the number. `known` is that of the line before: mostly it is the same. */
static inline text record_tail(text line, text at, text end, struct span *known, text known_line) {
    size_t known_size = known->end - known->begin;
    text begin = at;
    if (known_size && (size_t)(end - at) > known_size && !memcmp(at, known_line + known->begin, known_size)) {
        at += known_size;
    } else {
        uint32_t ignored;
        uint64_t version;
        if (!(at = PASS(at, end, ",\"hostname\":\"")) || !(at = quoted(begin, at, &ignored, &ignored)) ||
            !(at = PASS(at, end, ",\"app_version\":\"")) || !(at = quoted(begin, at, &ignored, &ignored)) ||
            !(at = PASS(at, end, ",\"schema_version\":")) || !(at = natural(at, &version)) ||
            !(at = PASS(at, end, ",\"seq\":")))
            return NULL;
    }
    *known = (struct span){(uint32_t)(begin - line), (uint32_t)(at - line)};
    return at;
}

/* Read one line; return what follows its line end. `tail` is as in `record_tail`, for the line of `before`. */
static inline text record_at(text line, text end, text before, struct span *tail, struct record *found) {
    text at = line;
    uint64_t ingest_ms, time_ms;
    uint32_t type, type_size, ignored;
    *found = (struct record){.line = line};
    if (!(at = PASS(at, end, "{\"ingest_ts\":")) || !(at = natural(at, &ingest_ms)) ||
        !(at = PASS(at, end, ",\"type\":\"")) || !(at = quoted(line, at, &type, &type_size)) ||
        !(at = PASS(at, end, ",\"symbol\":\"")) || !(at = quoted(line, at, &found->symbol, &found->symbol_size)) ||
        !(at = PASS(at, end, ",\"topic\":\"")) || !(at = quoted(line, at, &ignored, &ignored)) ||
        !(at = PASS(at, end, ",\"feed\":\"")) || !(at = quoted(line, at, &found->feed, &found->feed_size)) ||
        !(at = PASS(at, end, ",\"ts\":")) || !(at = natural(at, &time_ms)) || !(at = PASS(at, end, ",\"payload\":{")))
        return NULL;
    text payload = at - 1;
    if (!(at = members(at, 1, '}')) || at - line > UINT32_MAX / 2)
        return NULL;
    found->payload = (uint32_t)(payload - line);
    found->payload_size = (uint32_t)(at - payload);
    if (!(at = record_tail(line, at, end, tail, before)) || !(at = natural(at, &found->seq)) || *at != '}' || at[1] != '\n')
        return NULL;
    at += 2;
    found->ingest_ms = (int64_t)ingest_ms;
    found->time_ms = (int64_t)time_ms;
    found->type = (uint16_t)type;
    found->type_size = (uint16_t)type_size;
    found->size = (uint32_t)(at - line);
    return at;
}

/* Read whole lines, behind which a NUL stands that is not part of them. Their numbers must rise. */
static inline enum scanned scan_records(text data, size_t size, struct records *records) {
    text at = data, end = data + size, before = data;
    struct span tail = {0, 0};
    while (at < end) {
        if (records->count == records->room) {
            /* Lines are of much the same size; a wrong guess costs time only. */
            size_t room = records->room ? records->room * 2 : size / 256 + 16;
            struct record *list = room > SIZE_MAX / sizeof *list ? NULL : realloc(records->list, room * sizeof *list);
            if (!list)
                return NO_MEMORY;
            records->list = list;
            records->room = room;
        }
        struct record *record = &records->list[records->count];
        text line = at;
        if (!(at = record_at(line, end, before, &tail, record)))
            return REFUSED;
        if (records->count && record->seq <= record[-1].seq)
            return REFUSED;
        before = line;
        records->count++;
    }
    return PLAIN;
}
