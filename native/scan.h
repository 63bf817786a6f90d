/* What is read from the exchange, free of Python: WebSocket frames, and the events in them.
 *
 * Each rule accepts the usual form and refuses every other. The caller has a slower way for what is refused, so that
 * nothing here needs to know what is an error and what is only rare.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef const unsigned char *text;

/* ---- WebSocket frames of a server (RFC 6455, 5.2) ---- */

enum { WIRE_TEXT = 0x81, WIRE_BINARY = 0x82, WIRE_MASKED = 0x80 }; /* a whole message: FIN is set, RSV1 to 3 are not */

struct wire_frame {
    text payload;
    uint64_t payload_size;
    uint64_t odd_size; /* the size of a frame that is not plain; 0 for a plain one */
};

/* Return whether a frame at `at` is known: it is there whole, or is odd by its header. */
static inline bool wire_frame_at(text at, text end, uint64_t limit, bool binary_is_plain, struct wire_frame *found) {
    if (end - at < 2)
        return false;
    uint64_t size = at[1] & 0x7f;
    int size_bytes = size < 126 ? 0 : size == 126 ? 2 : 8;
    if (end - at < 2 + size_bytes)
        return false;
    text payload = at + 2 + size_bytes;
    if (size_bytes) {
        size = 0;
        for (int place = 0; place < size_bytes; place++)
            size = size << 8 | at[2 + place];
    }
    /* A length in more bytes than it needs is forbidden; what becomes of such a frame is the careful reader's to say. */
    bool is_shortest = size_bytes == 0 || (size_bytes == 2 ? size >= 126 : size > 0xffff);
    bool is_masked = at[1] & WIRE_MASKED;
    bool is_whole_message = at[0] == WIRE_TEXT || (binary_is_plain && at[0] == WIRE_BINARY);
    if (!is_whole_message || is_masked || !is_shortest || size > limit) {
        uint64_t header_size = (uint64_t)(payload - at) + (is_masked ? 4 : 0);
        *found = (struct wire_frame){NULL, 0, size > INT64_MAX - header_size ? INT64_MAX : header_size + size};
        return true;
    }
    *found = (struct wire_frame){payload, size, 0};
    return (uint64_t)(end - payload) >= size;
}

/* ---- JSON without white space and escapes ----
 *
 * Each rule returns what follows the thing it reads, or NULL if it refuses. A frame ends with a NUL that is not part of
 * it (as Python's bytes do). No rule accepts a NUL, and so none needs to know where the frame ends.
 */

enum { DEPTH_MAX = 16 }; /* nothing that the exchange sends is deeper than three */

enum { IN_STRING = 1, DIGIT = 2 };
#define STRING_8 IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING
/* What a byte may be: from space to tilde everything but quote and backslash stands for itself in a string. */
static const uint8_t kinds[256] = {
    [' '] = IN_STRING, IN_STRING, 0 /* " */, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING,
    ['('] = STRING_8,
    ['0'] = IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT,
    ['5'] = IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT, IN_STRING | DIGIT,
    [':'] = IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING,
    ['@'] = STRING_8, STRING_8, STRING_8,
    ['X'] = IN_STRING, IN_STRING, IN_STRING, IN_STRING, 0 /* \ */, IN_STRING, IN_STRING, IN_STRING,
    ['`'] = STRING_8, STRING_8, STRING_8,
    ['x'] = IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, IN_STRING, 0 /* DEL */,
};

static inline bool is_digit(unsigned char byte) {
    return kinds[byte] & DIGIT;
}

/* Read up to the closing quote from behind the opening one; return where the closing one is. */
static inline text string_rest(text at) {
    while (kinds[*at] & IN_STRING)
        at++;
    return *at == '"' ? at : NULL;
}

static inline text digits(text at) {
    if (!is_digit(*at))
        return NULL;
    while (is_digit(*at))
        at++;
    return at;
}

static inline text number(text at) {
    if (*at == '-')
        at++;
    if (*at == '0')
        at++;
    else if (!(at = digits(at)))
        return NULL;
    if (*at == '.' && !(at = digits(at + 1)))
        return NULL;
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-')
            at++;
        at = digits(at);
    }
    return at;
}

static inline text value(text at, int depth);

/* Read an array or object from behind its opening bracket. */
static text members(text at, int depth, unsigned char close) {
    if (depth > DEPTH_MAX)
        return NULL;
    if (*at == close)
        return at + 1;
    for (;;) {
        if (close == '}') {
            if (*at != '"' || !(at = string_rest(at + 1)) || *++at != ':')
                return NULL;
            at++;
        }
        if (!(at = value(at, depth)))
            return NULL;
        if (*at == close)
            return at + 1;
        if (*at++ != ',')
            return NULL;
    }
}

static inline text value(text at, int depth) {
    switch (*at) {
    case '"':
        at = string_rest(at + 1);
        return at ? at + 1 : NULL;
    case '[':
        return members(at + 1, depth + 1, ']');
    case '{':
        return members(at + 1, depth + 1, '}');
    case 't': /* compared byte by byte: the first that differs, at the latest the NUL, ends it */
        return at[1] == 'r' && at[2] == 'u' && at[3] == 'e' ? at + 4 : NULL;
    case 'f':
        return at[1] == 'a' && at[2] == 'l' && at[3] == 's' && at[4] == 'e' ? at + 5 : NULL;
    case 'n':
        return at[1] == 'u' && at[2] == 'l' && at[3] == 'l' ? at + 4 : NULL;
    default:
        return number(at);
    }
}

/* ---- what a cluster's events hold ---- */

enum { NAME_SIZE_MAX = 4, CHANNELS_MAX = 64, KEYS_MAX = 16, NO_KEY = 0xff };

/* The keys that count, by their place in the table; those of symbols follow. `p` is a symbol's key on some clusters. */
enum { EV, TIME, WINDOW_END, PRICE, SIZE, EXACT_SIZE, CONDITIONS, FIXED_KEYS, WINDOW_BEGIN = SIZE };
static const char fixed_keys[FIXED_KEYS][NAME_SIZE_MAX] = {"ev", "t", "e", "p", "s", "ds", "c"};

struct channel {
    uint32_t name;
    uint8_t name_size;
    uint8_t symbol_key;
    bool has_windows; /* whether the end of a window stands in for the time, or else its begin */
};

struct vocabulary {
    int channels_count, keys_count;
    uint8_t symbol_key; /* of the cluster: it counts before the channel's own */
    uint8_t letters[128]; /* keys of one letter: their places */
    uint32_t keys[KEYS_MAX];
    struct channel channels[CHANNELS_MAX];
};

/* Return a name of at most four letters as a number. Four bytes must be readable. */
static inline uint32_t packed(text at, size_t size) {
    static const unsigned char masks[NAME_SIZE_MAX + 1][4] = {{0}, {255}, {255, 255}, {255, 255, 255}, {255, 255, 255, 255}};
    uint32_t name, mask;
    memcpy(&name, at, 4);
    memcpy(&mask, masks[size], 4);
    return name & mask;
}

static inline bool is_name(text at, size_t size) {
    if (!size || size > NAME_SIZE_MAX)
        return false;
    for (size_t place = 0; place < size; place++)
        if (!(kinds[at[place]] & IN_STRING))
            return false;
    return true;
}

/* Return the place of a key, which is added if it is new; NO_KEY if it has no room. */
static uint8_t add_key(struct vocabulary *words, text at, size_t size) {
    unsigned char padded[NAME_SIZE_MAX] = {0};
    if (!is_name(at, size))
        return NO_KEY;
    memcpy(padded, at, size);
    uint32_t name = packed(padded, size);
    for (int place = 0; place < words->keys_count; place++)
        if (words->keys[place] == name)
            return (uint8_t)place;
    if (words->keys_count == KEYS_MAX)
        return NO_KEY;
    if (size == 1)
        words->letters[*at] = (uint8_t)words->keys_count;
    words->keys[words->keys_count] = name;
    return (uint8_t)words->keys_count++;
}

/* Return whether the cluster's symbols can be found by this key. */
static bool vocabulary_begin(struct vocabulary *words, text symbol_key, size_t size) {
    memset(words, 0, sizeof *words);
    memset(words->letters, NO_KEY, sizeof words->letters);
    for (int place = 0; place < FIXED_KEYS; place++)
        add_key(words, (text)fixed_keys[place], strlen(fixed_keys[place]));
    words->symbol_key = add_key(words, symbol_key, size);
    return words->symbol_key != NO_KEY;
}

/* Return whether the channel has room; events of one that has none are refused. */
static bool vocabulary_add(struct vocabulary *words, text code, size_t size, text symbol_key, size_t key_size, bool has_windows) {
    unsigned char padded[NAME_SIZE_MAX] = {0};
    if (!is_name(code, size) || words->channels_count == CHANNELS_MAX)
        return false;
    uint8_t key = add_key(words, symbol_key, key_size);
    if (key == NO_KEY)
        return false;
    memcpy(padded, code, size);
    words->channels[words->channels_count++] = (struct channel){packed(padded, size), (uint8_t)size, key, has_windows};
    return true;
}

/* Return the place of a key in the table, or NO_KEY. A quote, a colon and two more bytes follow it. */
static inline uint8_t key_at(const struct vocabulary *words, text at, size_t size) {
    if (size == 1)
        return words->letters[*at & 0x7f];
    if (size == 0 || size > NAME_SIZE_MAX)
        return NO_KEY;
    uint32_t name = packed(at, size);
    for (int place = 0; place < words->keys_count; place++)
        if (words->keys[place] == name)
            return (uint8_t)place;
    return NO_KEY;
}

/* Return the place of the channel, or -1. `guess` is the channel of the event before: mostly it is the same. */
static inline int channel_at(const struct vocabulary *words, text at, size_t size, int guess) {
    if (size == 0 || size > NAME_SIZE_MAX)
        return -1;
    uint32_t name = packed(at, size);
    if (guess < words->channels_count && words->channels[guess].name == name)
        return guess;
    for (int place = 0; place < words->channels_count; place++)
        if (words->channels[place].name == name)
            return place;
    return -1;
}

/* ---- events ---- */

/* Vendor times are seconds below the first of these, milliseconds, microseconds and nanoseconds below and from the others:
 * as recorder/polygon/careful.py has it. */
#define MS_MIN 100000000000u
#define MS_END 100000000000000u
#define US_END 100000000000000000u

struct event {
    text begin; /* its opening brace */
    int64_t time_ms;
    uint16_t size; /* up to and with its closing brace; larger ones are refused, so that all places within fit */
    uint16_t symbol; /* the place of its symbol within, and of the values that trades have; 0: it has none */
    uint16_t price, size_value, exact_size, conditions;
    uint8_t symbol_size;
    uint8_t channel;
};

/* Return what an integer says in Unix milliseconds, whatever its unit; 0 for everything else. */
static inline int64_t milliseconds(text at, text end) {
    if (end - at > 19)
        return 0;
    uint64_t time = 0;
    for (; at < end; at++) {
        if (!is_digit(*at))
            return 0;
        time = time * 10 + (uint64_t)(*at - '0');
    }
    if (time < MS_MIN)
        return (int64_t)(time * 1000);
    if (time < MS_END)
        return (int64_t)time;
    return (int64_t)(time < US_END ? time / 1000 : time / 1000000);
}

struct span {
    uint32_t begin, end; /* from the opening brace of the event; a value never begins at 0, which means that there is none */
};

/* Read an object and note where the values of the keys that count are. No such key may come twice. */
static inline text object_at(text at, const struct vocabulary *words, struct span *values) {
    text begin = at;
    if (*at++ != '{')
        return NULL;
    do {
        if (*at++ != '"')
            return NULL;
        text key = at;
        if (!(at = string_rest(at)) || at[1] != ':')
            return NULL;
        size_t key_size = (size_t)(at - key);
        text from = at + 2;
        if (!(at = value(from, 0)))
            return NULL;
        uint8_t place = key_at(words, key, key_size);
        if (place != NO_KEY) {
            if (values[place].begin)
                return NULL;
            values[place] = (struct span){(uint32_t)(from - begin), (uint32_t)(at - begin)};
        }
    } while (*at++ == ',');
    return at[-1] == '}' && at - begin <= UINT16_MAX ? at : NULL;
}

/* Return whether a value is a string with something in it, and let `inner` be what stands between its quotes. */
static inline bool is_full_string(text begin, struct span value, struct span *inner) {
    *inner = (struct span){value.begin + 1, value.end - 1};
    return value.begin && begin[value.begin] == '"' && inner->end > inner->begin;
}

/* Read one event. */
static inline text event_at(text begin, const struct vocabulary *words, int guess, struct event *found) {
    struct span values[KEYS_MAX] = {{0, 0}}, name, symbol;
    text after = object_at(begin, words, values);
    if (!after || !is_full_string(begin, values[EV], &name))
        return NULL;
    int place = channel_at(words, begin + name.begin, name.end - name.begin, guess);
    if (place < 0)
        return NULL;
    const struct channel *channel = &words->channels[place];
    bool has_cluster_symbol = values[words->symbol_key].begin;
    if (!is_full_string(begin, values[has_cluster_symbol ? words->symbol_key : channel->symbol_key], &symbol) ||
        symbol.end - symbol.begin > UINT8_MAX)
        return NULL;
    /* The first that is there counts: where it is no time, the careful reader looks further. */
    struct span time = values[TIME];
    if (!time.begin && channel->has_windows)
        time = values[values[WINDOW_END].begin ? WINDOW_END : WINDOW_BEGIN];
    int64_t time_ms = milliseconds(begin + time.begin, begin + time.end);
    if (!time_ms)
        return NULL;
    *found = (struct event){
        .begin = begin,
        .time_ms = time_ms,
        .size = (uint16_t)(after - begin),
        .symbol = (uint16_t)symbol.begin,
        .symbol_size = (uint8_t)(symbol.end - symbol.begin),
        .channel = (uint8_t)place,
        .price = (uint16_t)values[PRICE].begin,
        .size_value = (uint16_t)values[SIZE].begin,
        .exact_size = (uint16_t)values[EXACT_SIZE].begin,
        .conditions = (uint16_t)values[CONDITIONS].begin,
    };
    return after;
}

/* The events of some frames; all zero before the first. */
struct events {
    struct event *list; /* of malloc: free it */
    size_t count, room;
    size_t counts[CHANNELS_MAX];
    int64_t min_ms, max_ms;
};

enum scanned { PLAIN, REFUSED, NO_MEMORY };

static inline bool events_grow(struct events *events, size_t count_expected) {
    size_t room = events->room ? events->room * 2 : count_expected;
    struct event *list = room > SIZE_MAX / sizeof *list ? NULL : realloc(events->list, room * sizeof *list);
    if (!list)
        return false;
    events->list = list;
    events->room = room;
    return true;
}

/* Append the events of one frame. `count_expected` is how many there may be in all frames; a wrong one costs time only. */
static inline enum scanned scan_frame(text frame, size_t size, const struct vocabulary *words, size_t count_expected,
                                      struct events *events) {
    text at = frame;
    int guess = events->count ? events->list[events->count - 1].channel : 0;
    if (*at != '[')
        return REFUSED;
    do {
        if (events->count == events->room && !events_grow(events, count_expected))
            return NO_MEMORY;
        struct event *event = &events->list[events->count];
        if (!(at = event_at(at + 1, words, guess, event)))
            return REFUSED;
        events->count++;
        guess = event->channel;
        events->counts[guess]++;
        if (event->time_ms > events->max_ms)
            events->max_ms = event->time_ms;
        if (!events->min_ms || event->time_ms < events->min_ms)
            events->min_ms = event->time_ms;
    } while (*at == ',');
    return *at == ']' && at + 1 == frame + size ? PLAIN : REFUSED;
}

/* ---- values of trades: in events that were scanned, hence in valid JSON ---- */

enum { DECIMAL_DIGITS_MAX = 18 }; /* always fit int64_t */

struct decimal {
    int64_t mantissa;
    int scale; /* how many of its digits are behind the point */
};

/* Read what stands behind the E of a number: two digits at most. */
static inline text exponent_at(text at, int *exponent) {
    bool is_negative = *at == '-';
    at += is_negative || *at == '+';
    int sum = 0;
    text begin = at;
    for (; is_digit(*at) && at - begin < 3; at++)
        sum = sum * 10 + (*at - '0');
    *exponent = is_negative ? -sum : sum;
    return at > begin && at - begin < 3 ? at : NULL;
}

/* Read a number, bare or as a string, with its digits as they are spelled. What integers cannot say is refused. */
static inline bool decimal_at(text at, struct decimal *found) {
    bool is_string = *at == '"';
    at += is_string;
    bool is_negative = *at == '-';
    at += is_negative;
    int digits_count = 0, scale = 0, exponent = 0;
    int64_t mantissa = 0;
    text begin = at, point = NULL;
    for (; is_digit(*at) || (*at == '.' && !point && at > begin && is_digit(at[1])); at++) {
        if (*at == '.') {
            point = at;
            continue;
        }
        digits_count += mantissa || *at != '0';
        scale += point != NULL;
        if (digits_count > DECIMAL_DIGITS_MAX || scale > DECIMAL_DIGITS_MAX)
            return false;
        mantissa = mantissa * 10 + (*at - '0');
    }
    if (at == begin || ((*at == 'e' || *at == 'E') && !(at = exponent_at(at + 1, &exponent))))
        return false;
    scale -= exponent;
    /* Something else in a string is for a careful reader. A zero has no sign among integers, and zeros that an exponent
     * stands for are no digits. */
    if ((is_string && *at != '"') || scale < 0 || scale > DECIMAL_DIGITS_MAX || (is_negative && !mantissa))
        return false;
    *found = (struct decimal){is_negative ? -mantissa : mantissa, scale};
    return true;
}

/* Read an array of small integers: what stands between its brackets. */
static inline bool integers_at(text at, text *begin, size_t *size) {
    if (*at++ != '[')
        return false;
    *begin = at;
    for (int digits_count = 0; is_digit(*at) || *at == ','; at++)
        if ((digits_count = *at == ',' ? 0 : digits_count + 1) > DECIMAL_DIGITS_MAX)
            return false;
    *size = (size_t)(at - *begin);
    return *at == ']';
}
