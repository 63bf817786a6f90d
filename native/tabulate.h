/* The columns of a table of records (recorder/library/buffers.py), free of Python: buffers as Arrow lays them out.
 *
 * As in scan.h, what is of the usual form is read here, and nothing else: a record with another value is noted as odd, for
 * a slower reader. What fits no column, such as a string where a number is due, is null as everywhere.
 */
#pragma once
#include "records.h"

enum { COLUMNS_MAX = 64, LONG_KEYS_MAX = 24, NO_COLUMN = 0xff };

/* What a column is of: a value of the event, by its shape, or a field of the record itself. */
enum kind { TEXT, REAL, INTEGER, TIME_MS, INTEGERS, FLAG, LEVELS, EVENT_KINDS, SEQ = EVENT_KINDS, INGEST, TS, TYPE, SYMBOL, FEED, PAYLOAD, KINDS };

struct buffer {
    unsigned char *bytes; /* of malloc: free it */
    size_t size, room;
};

enum { PARTS_MAX = 4, VALIDITY = 0 };
struct column {
    enum kind kind;
    size_t valid;
    struct buffer parts[PARTS_MAX]; /* validity, then what the kind has: `part_of` */
};

/* Which columns the values of a channel's events belong to, by their keys. */
struct mapping {
    uint32_t name;
    uint8_t long_count;
    uint8_t letters[128];
    struct {
        uint32_t key;
        uint8_t column;
    } longs[LONG_KEYS_MAX];
};

struct table {
    int columns_count, mappings_count;
    struct column columns[COLUMNS_MAX];
    struct mapping mappings[CHANNELS_MAX];
    size_t rows;
    struct buffer odd; /* uint32_t: places of the records that need a slower reader */
};

static void table_free(struct table *table) {
    for (int place = 0; place < table->columns_count; place++)
        for (int part = 0; part < PARTS_MAX; part++)
            free(table->columns[place].parts[part].bytes);
    free(table->odd.bytes);
}

static inline bool buffer_grow(struct buffer *buffer, size_t size) {
    size_t room = buffer->room * 2 > buffer->size + size ? buffer->room * 2 : buffer->size + size + 256;
    unsigned char *bytes = realloc(buffer->bytes, room);
    if (!bytes)
        return false;
    buffer->bytes = bytes;
    buffer->room = room;
    return true;
}

static inline bool buffer_add(struct buffer *buffer, const void *from, size_t size) {
    if (!size)
        return true;
    if (buffer->room - buffer->size < size && !buffer_grow(buffer, size))
        return false;
    memcpy(buffer->bytes + buffer->size, from, size);
    buffer->size += size;
    return true;
}

/* Let the buffer be zeros of this size. */
static inline bool buffer_zeros(struct buffer *buffer, size_t size) {
    buffer->size = buffer->room = size;
    return (buffer->bytes = calloc(size + 1, 1));
}

/* ---- numbers ---- */

enum answer { FITS, FITS_NOT, IS_ODD, LACKS_MEMORY };

struct spelled_number {
    uint64_t mantissa; /* of at most 19 digits */
    int scale;         /* how many of them are behind the point, less the exponent */
    bool is_negative, is_whole; /* whole: without point and exponent */
};

/* Read a number that stands in valid JSON, bare, or as all that a string says. */
static inline enum answer spelled_number_at(text at, struct spelled_number *found) {
    enum { DIGITS_MAX = 19 };
    bool is_string = *at == '"';
    at += is_string;
    text end = number(at);
    if (!end || (is_string && *end != '"'))
        return FITS_NOT;
    *found = (struct spelled_number){.is_negative = *at == '-', .is_whole = true};
    at += *at == '-';
    int digits_count = 0, exponent = 0;
    for (; at < end && *at != 'e' && *at != 'E'; at++) {
        if (*at == '.') {
            found->is_whole = false;
            continue;
        }
        digits_count += digits_count || *at != '0';
        if (digits_count > DIGITS_MAX)
            return IS_ODD;
        found->mantissa = found->mantissa * 10 + (uint64_t)(*at - '0');
        found->scale += !found->is_whole;
    }
    if (at < end) {
        found->is_whole = false;
        if (!exponent_at(at + 1, &exponent))
            return IS_ODD;
        found->scale -= exponent;
    }
    return FITS;
}

/* The powers of ten that a double has exactly. */
enum { EXACT_POWER_MAX = 22, WORD_POWER_MAX = 19 };
static const double powers[EXACT_POWER_MAX + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define EXACT_MANTISSA_MAX ((uint64_t)1 << 53)

#ifdef __SIZEOF_INT128__
/* Return m divided by a power of ten, rounded once. m is above 2^53, so that the quotient has bits enough. */
static inline double divided(uint64_t m, int power) {
    uint64_t d = 1;
    for (int place = 0; place < power; place++)
        d *= 10;
    unsigned __int128 n = (unsigned __int128)m << 64, q = n / d;
    uint64_t high = (uint64_t)(q >> 64);
    int bits_count = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)q);
    /* Of 54 bits the last one is one more than a double has: it says whether half or more is cut off. */
    int dropped = bits_count - 54;
    uint64_t bits = (uint64_t)(q >> dropped);
    bool is_above = q * d != n || (q & (((unsigned __int128)1 << dropped) - 1));
    bits += (bits & 1) && (is_above || (bits & 2));
    uint64_t unit_bits = (uint64_t)(1023 + dropped + 1 - 64) << 52;
    double unit;
    memcpy(&unit, &unit_bits, sizeof unit);
    return (double)(bits >> 1) * unit;
}
#endif

/* Read a number as the double that is nearest to it. */
static inline enum answer real_at(text at, double *found) {
    struct spelled_number number;
    enum answer answer = spelled_number_at(at, &number);
    if (answer != FITS)
        return answer;
    uint64_t m = number.mantissa;
    int scale = number.scale;
    double value;
    if (!m)
        value = 0;
    else if (scale == 0)
        value = (double)m;
    else if (m <= EXACT_MANTISSA_MAX && scale > 0 && scale <= EXACT_POWER_MAX)
        value = (double)m / powers[scale];
    else if (m <= EXACT_MANTISSA_MAX && scale < 0 && -scale <= EXACT_POWER_MAX)
        value = (double)m * powers[-scale];
#ifdef __SIZEOF_INT128__
    else if (m > EXACT_MANTISSA_MAX && scale > 0 && scale <= WORD_POWER_MAX)
        value = divided(m, scale);
#endif
    else
        return IS_ODD;
    /* An integer has no zero with a sign. */
    *found = number.is_negative && (m || !number.is_whole) ? -value : value;
    return FITS;
}

static inline enum answer integer_at(text at, int64_t *found) {
    struct spelled_number number;
    enum answer answer = spelled_number_at(at, &number);
    if (answer != FITS)
        return answer;
    if (!number.is_whole)
        return IS_ODD;
    if (number.mantissa > (uint64_t)INT64_MAX)
        return FITS_NOT;
    *found = number.is_negative ? -(int64_t)number.mantissa : (int64_t)number.mantissa;
    return FITS;
}

static inline enum answer time_at(text at, int64_t *found) {
    struct spelled_number number;
    enum answer answer = spelled_number_at(at, &number);
    if (answer != FITS)
        return answer;
    if (!number.is_whole)
        return IS_ODD;
    uint64_t time = number.mantissa;
    if (!time || number.is_negative)
        return FITS_NOT;
    if (time < MS_MIN)
        time *= 1000;
    else if (time >= MS_END)
        time /= time < US_END ? 1000 : 1000000;
    *found = (int64_t)time;
    return FITS;
}

/* ---- cells ---- */

/* Add each number of an array: `add` reads and adds one. */
static inline enum answer array_at(text at, int depth, struct buffer *into, enum answer (*add)(text, struct buffer *)) {
    if (*at++ != '[')
        return FITS_NOT;
    while (*at != ']') {
        enum answer answer = add(at, into);
        if (answer != FITS)
            return answer;
        at = value(at, depth);
        at += *at == ',';
    }
    return FITS;
}

static inline enum answer add_integer(text at, struct buffer *into) {
    int64_t number;
    enum answer answer = integer_at(at, &number);
    return answer == FITS && !buffer_add(into, &number, sizeof number) ? LACKS_MEMORY : answer;
}

static inline enum answer add_real(text at, struct buffer *into) {
    double number;
    enum answer answer = real_at(at, &number);
    return answer == FITS && !buffer_add(into, &number, sizeof number) ? LACKS_MEMORY : answer;
}

/* Put the end of what was added so far at a place of the ends; there is room. */
static inline void put_end(struct buffer *ends, size_t place, size_t end) {
    int32_t number = (int32_t)end;
    memcpy(ends->bytes + place * sizeof number, &number, sizeof number);
}

static inline enum answer add_levels(text at, struct column *column) {
    struct buffer *ends = &column->parts[2], *values = &column->parts[3];
    if (*at++ != '[')
        return FITS_NOT;
    while (*at != ']') {
        enum answer answer = array_at(at, 2, values, add_real);
        int32_t end = (int32_t)(values->size / sizeof(double));
        if (answer == FITS && !buffer_add(ends, &end, sizeof end))
            answer = LACKS_MEMORY;
        if (answer != FITS)
            return answer;
        at = value(at, 1);
        at += *at == ',';
    }
    return FITS;
}

static inline enum answer add_text(text at, text end, struct buffer *into) {
    bool is_string = *at == '"';
    if (!is_string && *at != '-' && !is_digit(*at))
        return FITS_NOT;
    return buffer_add(into, at + is_string, (size_t)(end - at) - 2u * is_string) ? FITS : LACKS_MEMORY;
}

/* Put a value into its column. */
static inline enum answer put_value(struct column *column, size_t row, text at, text end) {
    struct buffer *parts = column->parts;
    size_t sizes[PARTS_MAX];
    for (int part = 0; part < PARTS_MAX; part++)
        sizes[part] = parts[part].size;
    enum answer answer;
    switch (column->kind) {
    case TEXT:
        answer = add_text(at, end, &parts[2]);
        break;
    case REAL:
        answer = real_at(at, (double *)parts[1].bytes + row);
        break;
    case INTEGER:
        answer = integer_at(at, (int64_t *)parts[1].bytes + row);
        break;
    case TIME_MS:
        answer = time_at(at, (int64_t *)parts[1].bytes + row);
        break;
    case INTEGERS:
        answer = *at == '[' ? array_at(at, 1, &parts[2], add_integer) : add_integer(at, &parts[2]);
        break;
    case FLAG:
        answer = *at == 't' || *at == 'f' ? FITS : FITS_NOT;
        if (*at == 't')
            parts[1].bytes[row / 8] |= (unsigned char)(1u << row % 8);
        break;
    default:
        answer = add_levels(at, column);
        break;
    }
    if (answer == FITS) {
        column->valid++;
        parts[VALIDITY].bytes[row / 8] |= (unsigned char)(1u << row % 8);
    } else {
        for (int part = 0; part < PARTS_MAX; part++)
            parts[part].size = sizes[part];
    }
    return answer;
}

/* Put a field of the record itself into its column. */
static inline bool put_field(struct column *column, size_t row, const struct record *record) {
    text line = record->line;
    int64_t *number = (int64_t *)column->parts[1].bytes + row;
    struct buffer *texts = &column->parts[2];
    column->valid++;
    switch (column->kind) {
    case SEQ:
        *number = (int64_t)record->seq;
        return true;
    case INGEST:
        *number = record->ingest_ms;
        return true;
    case TS:
        *number = record->time_ms;
        return true;
    case TYPE:
        return buffer_add(texts, line + record->type, record->type_size);
    case SYMBOL:
        return buffer_add(texts, line + record->symbol, record->symbol_size);
    case FEED:
        return buffer_add(texts, line + record->feed, record->feed_size);
    default:
        return buffer_add(texts, line + record->payload, record->payload_size);
    }
}

/* ---- rows ---- */

static inline bool is_text_kind(enum kind kind) {
    return kind == TEXT || kind >= TYPE;
}

/* Return how many bytes an element of the third part has, whose end each row notes in the second; 0 where rows note none. */
static inline size_t element_size(enum kind kind) {
    return is_text_kind(kind) ? 1 : kind == INTEGERS ? sizeof(int64_t) : kind == LEVELS ? sizeof(int32_t) : 0;
}

/* Return whether there is memory for columns of so many rows. */
static inline bool table_begin(struct table *table, size_t rows) {
    table->rows = rows;
    for (int place = 0; place < table->columns_count; place++) {
        struct column *column = &table->columns[place];
        size_t size = element_size(column->kind) ? (rows + 1) * sizeof(int32_t) : rows * 8;
        int32_t zero = 0;
        if (!buffer_zeros(&column->parts[VALIDITY], (rows + 7) / 8) ||
            !buffer_zeros(&column->parts[1], column->kind == FLAG ? (rows + 7) / 8 : size) ||
            (column->kind == LEVELS && !buffer_add(&column->parts[2], &zero, sizeof zero)))
            return false;
    }
    return true;
}

static inline uint8_t column_at(const struct mapping *mapping, text key, size_t size) {
    if (size == 1)
        return mapping->letters[*key & 0x7f];
    if (size == 0 || size > NAME_SIZE_MAX)
        return NO_COLUMN;
    uint32_t name = packed(key, size);
    for (int place = 0; place < mapping->long_count; place++)
        if (mapping->longs[place].key == name)
            return mapping->longs[place].column;
    return NO_COLUMN;
}

/* Note where the values of the columns are; of equal keys the last one counts. The payload was read when it was cut. */
static inline void find_values(const struct mapping *mapping, text payload, struct span *values) {
    text at = payload + 1;
    while (*at == '"' || *at == ',') {
        text key = at + (*at == ',') + 1;
        at = string_rest(key);
        uint8_t column = column_at(mapping, key, (size_t)(at - key));
        text from = at + 2;
        at = value(from, 1);
        if (column != NO_COLUMN)
            values[column] = (struct span){(uint32_t)(from - payload), (uint32_t)(at - payload)};
    }
}

static inline const struct mapping *mapping_of(const struct table *table, const struct record *record) {
    if (record->type_size > NAME_SIZE_MAX)
        return NULL;
    uint32_t name = packed(record->line + record->type, record->type_size);
    for (int place = 0; place < table->mappings_count; place++)
        if (table->mappings[place].name == name)
            return &table->mappings[place];
    return NULL;
}

/* Put a record into all columns. */
static inline bool put_record(struct table *table, size_t row, const struct record *record) {
    struct span values[COLUMNS_MAX];
    const struct mapping *mapping = mapping_of(table, record);
    text payload = record->line + record->payload;
    bool is_odd = false;
    memset(values, 0, sizeof *values * (size_t)table->columns_count);
    if (mapping)
        find_values(mapping, payload, values);
    for (int place = 0; place < table->columns_count; place++) {
        struct column *column = &table->columns[place];
        enum answer answer = FITS;
        if (column->kind >= EVENT_KINDS)
            answer = put_field(column, row, record) ? FITS : LACKS_MEMORY;
        else if (values[place].begin)
            answer = put_value(column, row, payload + values[place].begin, payload + values[place].end);
        if (answer == LACKS_MEMORY)
            return false;
        is_odd |= answer == IS_ODD;
        size_t size = element_size(column->kind);
        if (size) /* the ends of lists within lists begin with a zero, which is none */
            put_end(&column->parts[1], row + 1, column->parts[2].size / size - (column->kind == LEVELS));
    }
    uint32_t number = (uint32_t)row;
    return !is_odd || buffer_add(&table->odd, &number, sizeof number);
}
