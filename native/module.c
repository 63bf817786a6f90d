/* recorder._native: the hot path in C. recorder/_native.pyi says what each part does; scan.h, records.h and tabulate.h do the reading. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "records.h"
#include "scan.h"
#include "tabulate.h"

/* A converter for PyArg_ParseTuple: unlike `K` it raises OverflowError for a number that does not fit. */
static int to_unsigned(PyObject *number, void *made) {
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    *(uint64_t *)made = value;
    return !(value == (unsigned long long)-1 && PyErr_Occurred());
}

/* ---- WebSocket frames ---- */

static PyObject *split(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    uint64_t limit;
    PyObject *payloads;
    if (!PyArg_ParseTuple(args, "y*O&O!:split", &data, to_unsigned, &limit, &PyList_Type, &payloads))
        return NULL;
    text begin = data.buf, at = begin, end = begin + data.len;
    struct wire_frame frame = {0};
    bool failed = false;
    while (!failed && wire_frame_at(at, end, limit, true, &frame) && !frame.odd_size) {
        PyObject *payload = PyBytes_FromStringAndSize((const char *)frame.payload, (Py_ssize_t)frame.payload_size);
        failed = !payload || PyList_Append(payloads, payload);
        Py_XDECREF(payload);
        at = frame.payload + frame.payload_size;
    }
    PyBuffer_Release(&data);
    return failed ? NULL : Py_BuildValue("nK", (Py_ssize_t)(at - begin), (unsigned long long)frame.odd_size);
}

static PyObject *index_frames(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    uint64_t limit;
    if (!PyArg_ParseTuple(args, "y*O&:index", &data, to_unsigned, &limit))
        return NULL;
    text begin = data.buf, at = begin, end = begin + data.len;
    struct wire_frame frame = {0};
    uint64_t count = 0, largest = 0, sum = 0;
    while (wire_frame_at(at, end, limit, false, &frame) && !frame.odd_size) {
        count++;
        sum += frame.payload_size;
        if (frame.payload_size > largest)
            largest = frame.payload_size;
        at = frame.payload + frame.payload_size;
    }
    PyBuffer_Release(&data);
    return Py_BuildValue("nKKKK", (Py_ssize_t)(at - begin), (unsigned long long)frame.odd_size,
                         (unsigned long long)count, (unsigned long long)largest, (unsigned long long)sum);
}

/* ---- types ----
 *
 * They are made for each interpreter that imports the module, and kept in its state. None takes part in garbage
 * collection: a Scanner refers to str, a Block to bytes and its Scanner, Records to bytes or to other Records, and none
 * of these refers back.
 */

/* Texts that come again and again are one str each, so that its hash is computed once. A place that is taken is given
 * to the newer text: the memory is bounded, and so is the work for whatever texts a stranger sends. */
enum { TEXTS_MAX = 1 << 16, PLACES_FOR_A_TEXT = 4, TEXT_SIZE_MAX = UINT8_MAX };

typedef struct {
    PyObject_HEAD
    struct vocabulary words;
    PyObject *names[CHANNELS_MAX]; /* of the channels, by their place in `words` */
    PyObject **texts;
} Scanner;

typedef struct {
    PyObject_HEAD
    Scanner *scanner;
    PyObject *frames; /* the tuple of bytes that the events point into */
    struct events events;
    size_t *places; /* of malloc: where each event stands in the block that was scanned; NULL: they are all of it */
} Block;

struct state {
    PyTypeObject *block_type, *records_type, *buffer_type;
};

/* Let go of the memory of an object, and of its type, which each object of a heap type holds. */
static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- Scanner ---- */

static int scanner_add(Scanner *self, PyObject *row) {
    const char *code, *key;
    Py_ssize_t code_size, key_size;
    int has_windows;
    PyObject *name;
    if (!PyTuple_Check(row)) {
        PyErr_SetString(PyExc_TypeError, "Scanner(): each channel is a tuple (code, symbol field, has windows)");
        return -1;
    }
    if (!PyArg_ParseTuple(row, "Us#p:Scanner", &name, &key, &key_size, &has_windows) ||
        !(code = PyUnicode_AsUTF8AndSize(name, &code_size)))
        return -1;
    int place = self->words.channels_count;
    if (vocabulary_add(&self->words, (text)code, (size_t)code_size, (text)key, (size_t)key_size, has_windows))
        self->names[place] = Py_NewRef(name);
    return 0;
}

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"", "", NULL};
    PyObject *channels;
    const char *symbol_key;
    Py_ssize_t key_size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!s#:Scanner", names, &PyTuple_Type, &channels, &symbol_key, &key_size))
        return NULL;
    Scanner *self = (Scanner *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    if (!vocabulary_begin(&self->words, (text)symbol_key, (size_t)key_size)) {
        PyErr_Format(PyExc_ValueError, "Scanner(): the symbol field %s has not 1 to %d plain letters", symbol_key, NAME_SIZE_MAX);
        goto failed;
    }
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(channels); place++)
        if (scanner_add(self, PyTuple_GET_ITEM(channels, place)))
            goto failed;
    self->texts = PyMem_Calloc(TEXTS_MAX, sizeof *self->texts);
    if (!self->texts) {
        PyErr_NoMemory();
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static void scanner_dealloc(PyObject *object) {
    Scanner *self = (Scanner *)object;
    for (size_t place = 0; self->texts && place < TEXTS_MAX; place++)
        Py_XDECREF(self->texts[place]);
    PyMem_Free(self->texts);
    for (int place = 0; place < self->words.channels_count; place++)
        Py_DECREF(self->names[place]);
    free_object(object);
}

/* Return a new reference to the str of a text of at most TEXT_SIZE_MAX bytes. */
static PyObject *text_object(Scanner *self, text at, size_t size) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t place = 0; place < size; place++)
        hash = (hash ^ at[place]) * 16777619u;
    PyObject **places = &self->texts[hash % TEXTS_MAX & ~(uint32_t)(PLACES_FOR_A_TEXT - 1)];
    for (int place = 0; place < PLACES_FOR_A_TEXT && places[place]; place++) {
        PyObject *known = places[place];
        if ((size_t)PyUnicode_GET_LENGTH(known) == size && !memcmp(PyUnicode_1BYTE_DATA(known), at, size))
            return Py_NewRef(known);
    }
    PyObject *made = PyUnicode_New((Py_ssize_t)size, 127);
    if (!made)
        return NULL;
    memcpy(PyUnicode_1BYTE_DATA(made), at, size);
    Py_XDECREF(places[PLACES_FOR_A_TEXT - 1]);
    memmove(&places[1], &places[0], (PLACES_FOR_A_TEXT - 1) * sizeof *places);
    places[0] = Py_NewRef(made);
    return made;
}

static PyObject *scanner_scan(PyObject *object, PyObject *argument) {
    Scanner *self = (Scanner *)object;
    struct state *state = PyType_GetModuleState(Py_TYPE(object));
    PyObject *frames = PySequence_Tuple(argument);
    if (!frames)
        return NULL;
    Py_ssize_t frames_count = PyTuple_GET_SIZE(frames);
    size_t bytes_count = 0;
    for (Py_ssize_t place = 0; place < frames_count; place++) {
        PyObject *frame = PyTuple_GET_ITEM(frames, place);
        if (!PyBytes_Check(frame)) {
            PyErr_Format(PyExc_TypeError, "scan(): frames are bytes, not %.100s", Py_TYPE(frame)->tp_name);
            Py_DECREF(frames);
            return NULL;
        }
        bytes_count += (size_t)PyBytes_GET_SIZE(frame);
    }
    Block *block = (Block *)state->block_type->tp_alloc(state->block_type, 0);
    if (!block) {
        Py_DECREF(frames);
        return NULL;
    }
    block->frames = frames;
    block->scanner = (Scanner *)Py_NewRef(object);
    enum scanned scanned = PLAIN;
    for (Py_ssize_t place = 0; place < frames_count && scanned == PLAIN; place++) {
        PyObject *frame = PyTuple_GET_ITEM(frames, place);
        text begin = (text)PyBytes_AS_STRING(frame);
        scanned = scan_frame(begin, (size_t)PyBytes_GET_SIZE(frame), &self->words, bytes_count / 96 + 16, &block->events);
    }
    if (scanned == PLAIN)
        return (PyObject *)block;
    Py_DECREF(block);
    if (scanned == NO_MEMORY)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* ---- Block: lines ---- */

static void block_dealloc(PyObject *object) {
    Block *self = (Block *)object;
    free(self->events.list);
    free(self->places);
    Py_XDECREF(self->frames);
    Py_XDECREF(self->scanner);
    free_object(object);
}

static size_t place_of(const Block *self, size_t number) {
    return self->places ? self->places[number] : number;
}

static Py_ssize_t block_length(PyObject *object) {
    return (Py_ssize_t)((Block *)object)->events.count;
}

static inline char *put(char *out, const void *from, size_t size) {
    memcpy(out, from, size);
    return out + size;
}
#define PUT(out, literal) put(out, literal, sizeof(literal) - 1)

enum { NUMBER_SIZE_MAX = 20 }; /* digits of the largest uint64_t */

/* A number in decimal digits, which stand at the end of `digits`. */
struct spelled {
    char digits[NUMBER_SIZE_MAX];
    size_t size;
};

static inline void spell(struct spelled *spelled, uint64_t number) {
    spelled->size = 0;
    do
        spelled->digits[NUMBER_SIZE_MAX - ++spelled->size] = (char)('0' + number % 10);
    while (number /= 10);
}

static inline char *put_spelled(char *out, const struct spelled *spelled) {
    return put(out, spelled->digits + NUMBER_SIZE_MAX - spelled->size, spelled->size);
}

/* Let the number be one more, which is cheaper than to spell that: nine times in ten one digit changes. */
static inline void spell_next(struct spelled *spelled) {
    size_t place = NUMBER_SIZE_MAX - 1, first = NUMBER_SIZE_MAX - spelled->size;
    for (; spelled->digits[place] == '9'; place--) {
        spelled->digits[place] = '0';
        if (place == first) {
            spelled->digits[--place] = '1'; /* there is room: no number of all digits is all nines */
            spelled->size++;
            return;
        }
    }
    spelled->digits[place]++;
}

/* Return how many bytes the lines have at most; SIZE_MAX if that is more than can be said. */
static size_t lines_size_max(const Block *self, size_t size_of_each) {
    size_t size = 0;
    for (size_t place = 0; place < self->events.count; place++) {
        const struct event *event = &self->events.list[place];
        size_t more = size_of_each + event->size + 2u * event->symbol_size + 2u * NAME_SIZE_MAX;
        if (more > (size_t)PY_SSIZE_T_MAX - size)
            return SIZE_MAX;
        size += more;
    }
    return size;
}

static PyObject *block_format(PyObject *object, PyObject *args) {
    Block *self = (Block *)object;
    uint64_t ingest_ms, first_seq;
    const char *feed, *tail;
    Py_ssize_t feed_size, tail_size;
    if (!PyArg_ParseTuple(args, "O&O&y#y#:format", to_unsigned, &ingest_ms, to_unsigned, &first_seq, &feed, &feed_size, &tail,
                          &tail_size))
        return NULL;
    size_t count = self->events.count;
    size_t seqs_count = count ? place_of(self, count - 1) - place_of(self, 0) + 1 : 0;
    if (first_seq > UINT64_MAX - seqs_count) {
        PyErr_SetString(PyExc_OverflowError, "format(): the last seq is too large");
        return NULL;
    }
    struct spelled ingest, time, seq;
    spell(&ingest, ingest_ms);
    spell(&time, 0);
    spell(&seq, first_seq);
    static const char fixed[] = "{\"ingest_ts\":,\"type\":\"\",\"symbol\":\"\",\"topic\":\":\",\"feed\":,\"ts\":,\"payload\":,}\n";
    /* Neither size exceeds PY_SSIZE_T_MAX, so that their sum and a little more fit size_t. */
    size_t size_max = lines_size_max(self, sizeof fixed + 3 * NUMBER_SIZE_MAX + (size_t)feed_size + (size_t)tail_size);
    if (size_max == SIZE_MAX)
        return PyErr_NoMemory();
    PyObject *lines = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size_max);
    if (!lines)
        return NULL;
    char *out = PyBytes_AS_STRING(lines);
    int64_t time_ms = 0;
    for (size_t place = 0; place < count; place++) {
        const struct event *event = &self->events.list[place];
        size_t step = place ? place_of(self, place) - place_of(self, place - 1) : 0;
        if (step == 1)
            spell_next(&seq);
        else if (step)
            spell(&seq, first_seq + (place_of(self, place) - place_of(self, 0)));
        const struct channel *channel = &self->scanner->words.channels[event->channel];
        text symbol = event->begin + event->symbol;
        if (event->time_ms != time_ms)
            spell(&time, (uint64_t)(time_ms = event->time_ms));
        out = PUT(out, "{\"ingest_ts\":");
        out = put_spelled(out, &ingest);
        out = PUT(out, ",\"type\":\"");
        out = put(out, &channel->name, channel->name_size);
        out = PUT(out, "\",\"symbol\":\"");
        out = put(out, symbol, event->symbol_size);
        out = PUT(out, "\",\"topic\":\"");
        out = put(out, &channel->name, channel->name_size);
        *out++ = ':';
        out = put(out, symbol, event->symbol_size);
        out = PUT(out, "\",\"feed\":");
        out = put(out, feed, (size_t)feed_size);
        out = PUT(out, ",\"ts\":");
        out = put_spelled(out, &time);
        out = PUT(out, ",\"payload\":");
        out = put(out, event->begin, event->size);
        *out++ = ',';
        out = put(out, tail, (size_t)tail_size);
        out = put_spelled(out, &seq);
        out = PUT(out, "}\n");
    }
    _PyBytes_Resize(&lines, out - PyBytes_AS_STRING(lines)); /* NULL, with its exception, if it fails */
    return lines;
}

/* ---- Block: columns, for those who ask ---- */

static PyObject *column(Block *self, PyObject *(*cell_of)(Block *, const struct event *)) {
    PyObject *made = PyList_New((Py_ssize_t)self->events.count);
    for (size_t place = 0; made && place < self->events.count; place++) {
        PyObject *item = cell_of(self, &self->events.list[place]);
        if (!item)
            Py_CLEAR(made);
        else
            PyList_SET_ITEM(made, (Py_ssize_t)place, item);
    }
    return made;
}

static PyObject *channel_of(Block *self, const struct event *event) {
    return Py_NewRef(self->scanner->names[event->channel]);
}

static PyObject *symbol_of(Block *self, const struct event *event) {
    return text_object(self->scanner, event->begin + event->symbol, event->symbol_size);
}

static PyObject *time_of(Block *self, const struct event *event) {
    (void)self;
    return PyLong_FromLongLong(event->time_ms);
}

/* As recorder.polygon.rows.fragment_of makes it: without the opening brace, and with a comma. */
static PyObject *fragment_of(Block *self, const struct event *event) {
    (void)self;
    PyObject *made = PyBytes_FromStringAndSize(NULL, event->size);
    if (made)
        *put(PyBytes_AS_STRING(made), event->begin + 1, event->size - 1u) = ',';
    return made;
}

static PyObject *block_channels(PyObject *self, void *closure) {
    (void)closure;
    return column((Block *)self, channel_of);
}

static PyObject *block_symbols(PyObject *self, void *closure) {
    (void)closure;
    return column((Block *)self, symbol_of);
}

static PyObject *block_times(PyObject *self, void *closure) {
    (void)closure;
    return column((Block *)self, time_of);
}

static PyObject *block_fragments(PyObject *self, void *closure) {
    (void)closure;
    return column((Block *)self, fragment_of);
}

static PyObject *block_counts(PyObject *object, void *closure) {
    (void)closure;
    Block *self = (Block *)object;
    PyObject *made = PyDict_New();
    for (int place = 0; made && place < self->scanner->words.channels_count; place++) {
        if (!self->events.counts[place])
            continue;
        PyObject *count = PyLong_FromSize_t(self->events.counts[place]);
        if (!count || PyDict_SetItem(made, self->scanner->names[place], count))
            Py_CLEAR(made);
        Py_XDECREF(count);
    }
    return made;
}

static PyObject *block_span(PyObject *object, void *closure) {
    (void)closure;
    const struct events *events = &((Block *)object)->events;
    return Py_BuildValue("LL", (long long)events->min_ms, (long long)events->max_ms);
}

/* ---- Block: some of its events ---- */

/* Take an event of another block, in order; there is room. */
static void block_take(Block *self, const struct event *event, size_t place) {
    struct events *events = &self->events;
    events->list[events->count] = *event;
    self->places[events->count++] = place;
    events->counts[event->channel]++;
    if (event->time_ms > events->max_ms)
        events->max_ms = event->time_ms;
    if (!events->min_ms || event->time_ms < events->min_ms)
        events->min_ms = event->time_ms;
}

static PyObject *block_pick(PyObject *object, PyObject *channels) {
    Block *self = (Block *)object;
    bool is_picked[CHANNELS_MAX] = {false};
    size_t count = 0;
    for (int place = 0; place < self->scanner->words.channels_count; place++) {
        int is_in = PySequence_Contains(channels, self->scanner->names[place]);
        if (is_in < 0)
            return NULL;
        is_picked[place] = is_in;
        count += is_in ? self->events.counts[place] : 0;
    }
    Block *picked = (Block *)Py_TYPE(object)->tp_alloc(Py_TYPE(object), 0);
    if (!picked)
        return NULL;
    picked->frames = Py_NewRef(self->frames);
    picked->scanner = (Scanner *)Py_NewRef((PyObject *)self->scanner);
    /* One more, so that none is not a size of 0. */
    picked->events.list = calloc(count + 1, sizeof *picked->events.list);
    picked->places = calloc(count + 1, sizeof *picked->places);
    if (!picked->events.list || !picked->places) {
        Py_DECREF(picked);
        return PyErr_NoMemory();
    }
    picked->events.room = count + 1;
    for (size_t place = 0; place < self->events.count; place++) {
        const struct event *event = &self->events.list[place];
        if (is_picked[event->channel])
            block_take(picked, event, place_of(self, place));
    }
    return (PyObject *)picked;
}

static PyObject *block_numbers(PyObject *object, PyObject *argument) {
    Block *self = (Block *)object;
    uint64_t first;
    if (!to_unsigned(argument, &first))
        return NULL;
    size_t count = self->events.count;
    if (count && first > UINT64_MAX - place_of(self, count - 1)) {
        PyErr_SetString(PyExc_OverflowError, "numbers(): the last number is too large");
        return NULL;
    }
    PyObject *made = PyList_New((Py_ssize_t)self->events.count);
    for (size_t place = 0; made && place < self->events.count; place++) {
        PyObject *number = PyLong_FromUnsignedLongLong(first + place_of(self, place));
        if (!number)
            Py_CLEAR(made);
        else
            PyList_SET_ITEM(made, (Py_ssize_t)place, number);
    }
    return made;
}

/* ---- Block: trades ---- */

enum { SYMBOLS, TIMES, PRICES, PRICE_SCALES, SIZES, SIZE_SCALES, CONDITION_TEXTS, TRADE_COLUMNS };

struct trade {
    struct decimal price, size;
    text conditions;
    size_t conditions_size;
};

/* Read what bars need of a trade; false where integers cannot say it. */
static bool trade_of(const struct event *event, struct trade *trade) {
    text at = event->begin;
    bool has_exact_size = event->exact_size && at[event->exact_size] != 'n'; /* null */
    uint16_t size = has_exact_size ? event->exact_size : event->size_value;
    *trade = (struct trade){.conditions = at};
    return event->price && decimal_at(at + event->price, &trade->price) && (!size || decimal_at(at + size, &trade->size)) &&
           (!event->conditions || at[event->conditions] == 'n' ||
            integers_at(at + event->conditions, &trade->conditions, &trade->conditions_size)) &&
           trade->conditions_size <= TEXT_SIZE_MAX;
}

/* Put a trade into its place in the columns. What a failure leaves empty there is NULL, which a list may hold. */
static bool put_trade(Block *self, const struct event *event, const struct trade *trade, PyObject **columns, Py_ssize_t place) {
    PyObject *cells[TRADE_COLUMNS] = {
        [SYMBOLS] = symbol_of(self, event),
        [TIMES] = PyLong_FromLongLong(event->time_ms),
        [PRICES] = PyLong_FromLongLong(trade->price.mantissa),
        [PRICE_SCALES] = PyLong_FromLong(trade->price.scale),
        [SIZES] = PyLong_FromLongLong(trade->size.mantissa),
        [SIZE_SCALES] = PyLong_FromLong(trade->size.scale),
        [CONDITION_TEXTS] = text_object(self->scanner, trade->conditions, trade->conditions_size),
    };
    bool is_whole = true;
    for (int column = 0; column < TRADE_COLUMNS; column++) {
        is_whole = is_whole && cells[column];
        PyList_SET_ITEM(columns[column], place, cells[column]);
    }
    return is_whole;
}

/* Return the place of a channel by its name; -1 if none of them has it, -2 with an exception. */
static int channel_named(const Scanner *self, PyObject *name) {
    for (int place = 0; place < self->words.channels_count; place++) {
        int is_equal = PyObject_RichCompareBool(self->names[place], name, Py_EQ);
        if (is_equal)
            return is_equal < 0 ? -2 : place;
    }
    return -1;
}

static PyObject *block_trades(PyObject *object, PyObject *name) {
    Block *self = (Block *)object;
    int channel = channel_named(self->scanner, name);
    if (channel == -2)
        return NULL;
    Py_ssize_t count = channel < 0 ? 0 : (Py_ssize_t)self->events.counts[channel], place = 0;
    PyObject *made = PyTuple_New(TRADE_COLUMNS), *columns[TRADE_COLUMNS];
    for (int column = 0; made && column < TRADE_COLUMNS; column++) {
        if (!(columns[column] = PyList_New(count)))
            Py_CLEAR(made);
        else
            PyTuple_SET_ITEM(made, column, columns[column]);
    }
    for (size_t each = 0; made && place < count; each++) {
        const struct event *event = &self->events.list[each];
        struct trade trade;
        if (event->channel != channel)
            continue;
        if (!trade_of(event, &trade)) {
            Py_DECREF(made);
            Py_RETURN_NONE;
        }
        if (!put_trade(self, event, &trade, columns, place++))
            Py_CLEAR(made);
    }
    return made;
}

/* ---- Records ---- */

typedef struct {
    PyObject_HEAD
    PyObject *owner; /* of the bytes that the records point into: these, or other Records, or a tuple of such */
    const struct record *list;
    size_t count;
    struct record *own; /* of malloc: the list, where it is not that of other Records */
} Records;

/* Return new Records; they take over `own`, which is freed if they cannot be made. */
static PyObject *records_new(PyTypeObject *type, PyObject *owner, const struct record *list, size_t count, struct record *own) {
    Records *made = (Records *)type->tp_alloc(type, 0);
    if (!made) {
        free(own);
        return NULL;
    }
    made->owner = Py_NewRef(owner);
    made->list = list;
    made->count = count;
    made->own = own;
    return (PyObject *)made;
}

static void records_dealloc(PyObject *object) {
    Records *self = (Records *)object;
    free(self->own);
    Py_XDECREF(self->owner);
    free_object(object);
}

static PyObject *cut(PyObject *module, PyObject *data) {
    struct state *state = PyModule_GetState(module);
    if (!PyBytes_Check(data)) {
        PyErr_Format(PyExc_TypeError, "cut(): lines are bytes, not %.100s", Py_TYPE(data)->tp_name);
        return NULL;
    }
    struct records records = {0};
    enum scanned scanned;
    text begin = (text)PyBytes_AS_STRING(data);
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    /* The caller holds the bytes, which do not change. */
    Py_BEGIN_ALLOW_THREADS
    scanned = scan_records(begin, size, &records);
    Py_END_ALLOW_THREADS
    if (scanned == PLAIN)
        return records_new(state->records_type, data, records.list, records.count, records.list);
    free(records.list);
    if (scanned == NO_MEMORY)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static int by_seq(const void *one, const void *other) {
    uint64_t a = ((const struct record *)one)->seq, b = ((const struct record *)other)->seq;
    return (a > b) - (a < b);
}

static PyObject *merge(PyObject *module, PyObject *argument) {
    struct state *state = PyModule_GetState(module);
    PyObject *parts = PySequence_Tuple(argument), *made = NULL;
    if (!parts)
        return NULL;
    size_t count = 0, place = 0;
    for (Py_ssize_t part = 0; part < PyTuple_GET_SIZE(parts); part++) {
        PyObject *records = PyTuple_GET_ITEM(parts, part);
        if (!Py_IS_TYPE(records, state->records_type)) {
            PyErr_Format(PyExc_TypeError, "merge(): parts are Records, not %.100s", Py_TYPE(records)->tp_name);
            goto ended;
        }
        count += ((Records *)records)->count;
    }
    struct record *list = calloc(count + 1, sizeof *list);
    if (!list) {
        PyErr_NoMemory();
        goto ended;
    }
    for (Py_ssize_t part = 0; part < PyTuple_GET_SIZE(parts); part++) {
        const Records *records = (Records *)PyTuple_GET_ITEM(parts, part);
        for (size_t each = 0; each < records->count; each++)
            list[place++] = records->list[each];
    }
    qsort(list, count, sizeof *list, by_seq);
    made = records_new(state->records_type, parts, list, count, list);
ended:
    Py_DECREF(parts);
    return made;
}

static Py_ssize_t records_length(PyObject *object) {
    return (Py_ssize_t)((Records *)object)->count;
}

/* Let `begin` and `end` be a range of the records that the arguments name, as slices do. */
static bool range_of(const Records *self, PyObject *args, const char *format, size_t *begin, size_t *end) {
    Py_ssize_t first, last, count = (Py_ssize_t)self->count;
    if (!PyArg_ParseTuple(args, format, &first, &last))
        return false;
    if (first < 0 || last < first || last > count) {
        PyErr_Format(PyExc_IndexError, "there are %zd records, not %zd to %zd", count, first, last);
        return false;
    }
    *begin = (size_t)first;
    *end = (size_t)last;
    return true;
}

static PyObject *records_part(PyObject *object, PyObject *args) {
    Records *self = (Records *)object;
    size_t begin, end;
    if (!range_of(self, args, "nn:part", &begin, &end))
        return NULL;
    /* A part of a part is one of the whole, so that none keeps a long row of others. */
    return records_new(Py_TYPE(object), self->own ? object : self->owner, self->list + begin, end - begin, NULL);
}

static PyObject *records_place_of(PyObject *object, PyObject *argument) {
    Records *self = (Records *)object;
    uint64_t seq;
    if (!to_unsigned(argument, &seq))
        return NULL;
    size_t low = 0, high = self->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (self->list[middle].seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return PyLong_FromSize_t(low);
}

static PyObject *records_pick(PyObject *object, PyObject *places) {
    Records *self = (Records *)object;
    PyObject *list = PySequence_Fast(places, "pick(): places are a sequence");
    if (!list)
        return NULL;
    size_t count = (size_t)PySequence_Fast_GET_SIZE(list);
    struct record *picked = calloc(count + 1, sizeof *picked);
    if (!picked) {
        Py_DECREF(list);
        return PyErr_NoMemory();
    }
    for (size_t each = 0; each < count; each++) {
        size_t place = PyLong_AsSize_t(PySequence_Fast_GET_ITEM(list, (Py_ssize_t)each));
        if (place >= self->count) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_IndexError, "there are %zu records, none at %zu", self->count, place);
            free(picked);
            Py_DECREF(list);
            return NULL;
        }
        picked[each] = self->list[place];
    }
    Py_DECREF(list);
    return records_new(Py_TYPE(object), object, picked, count, picked);
}

static PyObject *records_between(PyObject *object, PyObject *args) {
    Records *self = (Records *)object;
    long long start_ms, end_ms;
    if (!PyArg_ParseTuple(args, "LL:between", &start_ms, &end_ms))
        return NULL;
    struct record *chosen = calloc(self->count + 1, sizeof *chosen);
    if (!chosen)
        return PyErr_NoMemory();
    size_t count = 0;
    for (size_t each = 0; each < self->count; each++)
        if (self->list[each].ingest_ms >= start_ms && self->list[each].ingest_ms < end_ms)
            chosen[count++] = self->list[each];
    return records_new(Py_TYPE(object), object, chosen, count, chosen);
}

static bool is_same_read(const struct record *one, const struct record *other) {
    return one->ingest_ms == other->ingest_ms && one->feed_size == other->feed_size &&
           !memcmp(one->line + one->feed, other->line + other->feed, one->feed_size);
}

/* Return a str of plain ASCII. */
static PyObject *ascii(text at, size_t size) {
    PyObject *made = PyUnicode_New((Py_ssize_t)size, 127);
    if (made)
        memcpy(PyUnicode_1BYTE_DATA(made), at, size);
    return made;
}

static PyObject *records_reads(PyObject *object, PyObject *ignored) {
    (void)ignored;
    Records *self = (Records *)object;
    PyObject *made = PyList_New(0), *feed = NULL;
    for (size_t begin = 0, end; made && begin < self->count; begin = end) {
        const struct record *first = &self->list[begin];
        for (end = begin + 1; end < self->count && is_same_read(first, &self->list[end]); end++)
            continue;
        bool is_known = feed && (size_t)PyUnicode_GET_LENGTH(feed) == first->feed_size &&
                        !memcmp(PyUnicode_1BYTE_DATA(feed), first->line + first->feed, first->feed_size);
        if (!is_known)
            Py_XSETREF(feed, ascii(first->line + first->feed, first->feed_size));
        PyObject *read = feed ? Py_BuildValue("nLO", (Py_ssize_t)end, (long long)first->ingest_ms, feed) : NULL;
        if (!read || PyList_Append(made, read))
            Py_CLEAR(made);
        Py_XDECREF(read);
    }
    Py_XDECREF(feed);
    return made;
}

/* Return the payloads of a range: `before` each but the first, and `open` and `close` around all, where these are not 0. */
static PyObject *joined(const Records *self, size_t begin, size_t end, char open, char before, char close, char behind) {
    size_t size = 2;
    for (size_t each = begin; each < end; each++)
        size += self->list[each].payload_size + 1;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!made)
        return NULL;
    char *out = PyBytes_AS_STRING(made);
    if (open)
        *out++ = open;
    for (size_t each = begin; each < end; each++) {
        const struct record *record = &self->list[each];
        if (before && each > begin)
            *out++ = before;
        out = put(out, record->line + record->payload, record->payload_size);
        if (behind)
            *out++ = behind;
    }
    if (close)
        *out++ = close;
    _PyBytes_Resize(&made, out - PyBytes_AS_STRING(made)); /* NULL, with its exception, if it fails */
    return made;
}

static PyObject *records_frame(PyObject *object, PyObject *args) {
    size_t begin, end;
    if (!range_of((Records *)object, args, "nn:frame", &begin, &end))
        return NULL;
    return joined((Records *)object, begin, end, '[', ',', ']', 0);
}

static PyObject *records_payload_lines(PyObject *object, PyObject *ignored) {
    (void)ignored;
    Records *self = (Records *)object;
    return joined(self, 0, self->count, 0, 0, 0, '\n');
}

static PyObject *records_payloads(PyObject *object, PyObject *args) {
    Records *self = (Records *)object;
    size_t begin, end;
    if (!range_of(self, args, "nn:payloads", &begin, &end))
        return NULL;
    PyObject *made = PyList_New((Py_ssize_t)(end - begin));
    for (size_t each = begin; made && each < end; each++) {
        const struct record *record = &self->list[each];
        const char *payload = (const char *)record->line + record->payload;
        PyObject *item = PyBytes_FromStringAndSize(payload, (Py_ssize_t)record->payload_size);
        if (!item)
            Py_CLEAR(made);
        else
            PyList_SET_ITEM(made, (Py_ssize_t)(each - begin), item);
    }
    return made;
}

static PyObject *records_payload_bytes(PyObject *object, PyObject *args) {
    Records *self = (Records *)object;
    size_t begin, end, size = 0;
    if (!range_of(self, args, "nn:payload_bytes", &begin, &end))
        return NULL;
    for (size_t each = begin; each < end; each++)
        size += self->list[each].payload_size;
    return PyLong_FromSize_t(size);
}

static PyObject *records_lines(PyObject *object, PyObject *ignored) {
    (void)ignored;
    Records *self = (Records *)object;
    size_t size = 0;
    for (size_t each = 0; each < self->count; each++)
        size += self->list[each].size;
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    char *out = made ? PyBytes_AS_STRING(made) : NULL;
    for (size_t each = 0; made && each < self->count; each++)
        out = put(out, self->list[each].line, self->list[each].size);
    return made;
}

static PyObject *records_names(PyObject *object, PyObject *ignored) {
    (void)ignored;
    Records *self = (Records *)object;
    PyObject *made = PyList_New((Py_ssize_t)self->count);
    for (size_t each = 0; made && each < self->count; each++) {
        const struct record *record = &self->list[each];
        PyObject *type = ascii(record->line + record->type, record->type_size);
        PyObject *symbol = ascii(record->line + record->symbol, record->symbol_size);
        PyObject *pair = type && symbol ? PyTuple_Pack(2, type, symbol) : NULL;
        Py_XDECREF(type);
        Py_XDECREF(symbol);
        if (!pair)
            Py_CLEAR(made);
        else
            PyList_SET_ITEM(made, (Py_ssize_t)each, pair);
    }
    return made;
}

static PyObject *records_without_hole(PyObject *object, PyObject *argument) {
    Records *self = (Records *)object;
    uint64_t expected;
    if (!to_unsigned(argument, &expected))
        return NULL;
    size_t count = 0;
    while (count < self->count && self->list[count].seq == expected + count)
        count++;
    return PyLong_FromSize_t(count);
}

static PyObject *records_first(PyObject *object, void *closure) {
    (void)closure;
    Records *self = (Records *)object;
    if (!self->count)
        Py_RETURN_NONE;
    const struct record *record = &self->list[0];
    return Py_BuildValue("KL", (unsigned long long)record->seq, (long long)record->ingest_ms);
}

static PyObject *records_last(PyObject *object, void *closure) {
    (void)closure;
    Records *self = (Records *)object;
    if (!self->count)
        Py_RETURN_NONE;
    const struct record *record = &self->list[self->count - 1];
    return Py_BuildValue("KL", (unsigned long long)record->seq, (long long)record->ingest_ms);
}

/* ---- tables of Records ---- */

static const char *const kind_names[KINDS] = {"text", "real",      "integer", "time", "integers", "flag", "levels",
                                              "seq",  "ingest_ts", "ts",      "type", "symbol",   "feed", "payload"};

/* Add a column for each name of a kind. */
static bool add_columns(struct table *table, PyObject *shown) {
    if (PyTuple_GET_SIZE(shown) > COLUMNS_MAX) {
        PyErr_Format(PyExc_ValueError, "tabulate(): there are more than %d columns", COLUMNS_MAX);
        return false;
    }
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(shown); place++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(shown, place));
        int kind = 0;
        while (name && kind < KINDS && strcmp(name, kind_names[kind]))
            kind++;
        if (!name || kind == KINDS) {
            if (name)
                PyErr_Format(PyExc_ValueError, "tabulate(): there are no columns of %s", name);
            return false;
        }
        table->columns[table->columns_count++].kind = (enum kind)kind;
    }
    return true;
}

static bool is_tuple(PyObject *object) {
    if (!PyTuple_Check(object))
        PyErr_Format(PyExc_TypeError, "tabulate(): channels and their keys are tuples, not %.100s", Py_TYPE(object)->tp_name);
    return PyTuple_Check(object);
}

/* Let the values of a key belong to a column. */
static bool add_key_of(struct table *table, struct mapping *mapping, PyObject *pair) {
    const char *key;
    Py_ssize_t size;
    int column;
    unsigned char padded[NAME_SIZE_MAX] = {0};
    if (!is_tuple(pair) || !PyArg_ParseTuple(pair, "s#i:tabulate", &key, &size, &column))
        return false;
    bool has_room = size == 1 || mapping->long_count < LONG_KEYS_MAX;
    if (!is_name((text)key, (size_t)size) || !has_room || column < 0 || column >= table->columns_count ||
        table->columns[column].kind >= EVENT_KINDS) {
        PyErr_Format(PyExc_ValueError, "tabulate(): column %d cannot be that of %s", column, key);
        return false;
    }
    if (size == 1) {
        mapping->letters[(unsigned char)*key] = (uint8_t)column;
    } else {
        memcpy(padded, key, (size_t)size);
        mapping->longs[mapping->long_count].key = packed(padded, (size_t)size);
        mapping->longs[mapping->long_count++].column = (uint8_t)column;
    }
    return true;
}

/* Add the keys of each channel. */
static bool add_mappings(struct table *table, PyObject *channels) {
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(channels); place++) {
        const char *code;
        Py_ssize_t size;
        PyObject *keys;
        unsigned char padded[NAME_SIZE_MAX] = {0};
        PyObject *channel = PyTuple_GET_ITEM(channels, place);
        if (!is_tuple(channel) || !PyArg_ParseTuple(channel, "s#O!:tabulate", &code, &size, &PyTuple_Type, &keys))
            return false;
        if (!is_name((text)code, (size_t)size) || table->mappings_count == CHANNELS_MAX) {
            PyErr_Format(PyExc_ValueError, "tabulate(): there is no room for channel %s", code);
            return false;
        }
        struct mapping *mapping = &table->mappings[table->mappings_count++];
        memcpy(padded, code, (size_t)size);
        mapping->name = packed(padded, (size_t)size);
        memset(mapping->letters, NO_COLUMN, sizeof mapping->letters);
        for (Py_ssize_t key = 0; key < PyTuple_GET_SIZE(keys); key++)
            if (!add_key_of(table, mapping, PyTuple_GET_ITEM(keys, key)))
                return false;
    }
    return true;
}

/* Memory that Arrow has without a copy. */
typedef struct {
    PyObject_HEAD
    unsigned char *bytes; /* of malloc */
    Py_ssize_t size;
} Buffer;

static int buffer_show(PyObject *object, Py_buffer *view, int flags) {
    Buffer *self = (Buffer *)object;
    return PyBuffer_FillInfo(view, object, self->bytes, self->size, 1, flags);
}

static void buffer_dealloc(PyObject *object) {
    free(((Buffer *)object)->bytes);
    free_object(object);
}

/* Return the memory of a part as an object, which takes it over. */
static PyObject *part_object(const struct state *state, struct buffer *part) {
    Buffer *made = (Buffer *)state->buffer_type->tp_alloc(state->buffer_type, 0);
    if (!made)
        return NULL;
    /* What was more than it needed goes back; there is at least a byte, so that its place is one. */
    unsigned char *bytes = realloc(part->bytes, part->size + 1);
    if (!bytes) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    made->bytes = bytes;
    made->size = (Py_ssize_t)part->size;
    *part = (struct buffer){0};
    return (PyObject *)made;
}

/* Return the buffers of a column: None instead of validity where no row is null. */
static PyObject *column_buffers(const struct state *state, struct column *column, size_t rows) {
    int count = column->kind == LEVELS ? 4 : element_size(column->kind) ? 3 : 2;
    PyObject *made = PyTuple_New(count + 1);
    PyObject *nulls = PyLong_FromSize_t(rows - column->valid);
    if (!made || !nulls) {
        Py_XDECREF(made);
        Py_XDECREF(nulls);
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, nulls);
    for (int place = 0; place < count; place++) {
        bool is_needless = place == VALIDITY && column->valid == rows;
        PyObject *part = is_needless ? Py_NewRef(Py_None) : part_object(state, &column->parts[place]);
        if (!part) {
            Py_DECREF(made);
            return NULL;
        }
        PyTuple_SET_ITEM(made, place + 1, part);
    }
    return made;
}

static PyObject *table_buffers(const struct state *state, struct table *table) {
    PyObject *columns = PyList_New(table->columns_count);
    PyObject *odd = PyList_New((Py_ssize_t)(table->odd.size / sizeof(uint32_t)));
    bool failed = !columns || !odd;
    for (int place = 0; !failed && place < table->columns_count; place++) {
        PyObject *buffers = column_buffers(state, &table->columns[place], table->rows);
        failed = !buffers;
        PyList_SET_ITEM(columns, place, buffers);
    }
    for (Py_ssize_t place = 0; !failed && place < PyList_GET_SIZE(odd); place++) {
        PyObject *number = PyLong_FromUnsignedLong(((const uint32_t *)table->odd.bytes)[place]);
        failed = !number;
        PyList_SET_ITEM(odd, place, number);
    }
    PyObject *made = failed ? NULL : PyTuple_Pack(2, columns, odd);
    Py_XDECREF(columns);
    Py_XDECREF(odd);
    return made;
}

/* Let `rows` be how many records all parts have. */
static bool count_rows(const struct state *state, PyObject *parts, size_t *rows) {
    size_t size = 0;
    *rows = 0;
    for (Py_ssize_t part = 0; part < PyTuple_GET_SIZE(parts); part++) {
        PyObject *object = PyTuple_GET_ITEM(parts, part);
        if (!Py_IS_TYPE(object, state->records_type)) {
            PyErr_Format(PyExc_TypeError, "tabulate(): parts are Records, not %.100s", Py_TYPE(object)->tp_name);
            return false;
        }
        const Records *records = (Records *)object;
        for (size_t each = 0; each < records->count; each++)
            size += records->list[each].size;
        *rows += records->count;
    }
    if (size > INT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "tabulate(): the lines have %zu bytes, which is too much for one table", size);
        return false;
    }
    return true;
}

static bool put_parts(struct table *table, PyObject *parts, size_t rows) {
    size_t row = 0;
    bool is_put = table_begin(table, rows);
    for (Py_ssize_t part = 0; is_put && part < PyTuple_GET_SIZE(parts); part++) {
        const Records *records = (Records *)PyTuple_GET_ITEM(parts, part);
        for (size_t each = 0; is_put && each < records->count; each++)
            is_put = put_record(table, row++, &records->list[each]);
    }
    return is_put;
}

static PyObject *tabulate(PyObject *module, PyObject *args) {
    const struct state *state = PyModule_GetState(module);
    PyObject *parts, *shown, *channels, *made = NULL;
    size_t rows;
    if (!PyArg_ParseTuple(args, "O!O!O!:tabulate", &PyTuple_Type, &parts, &PyTuple_Type, &shown, &PyTuple_Type, &channels) ||
        !count_rows(state, parts, &rows))
        return NULL;
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return PyErr_NoMemory();
    if (add_columns(table, shown) && add_mappings(table, channels)) {
        bool is_put;
        Py_BEGIN_ALLOW_THREADS
        is_put = put_parts(table, parts, rows);
        Py_END_ALLOW_THREADS
        made = is_put ? table_buffers(state, table) : PyErr_NoMemory();
    }
    table_free(table);
    free(table);
    return made;
}

/* ---- the module ---- */

static PyMethodDef scanner_methods[] = {
    {"scan", scanner_scan, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot scanner_slots[] = {
    {Py_tp_new, scanner_new},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, scanner_methods},
    {0, NULL},
};
static PyType_Spec scanner_spec = {
    .name = "recorder._native.Scanner",
    .basicsize = sizeof(Scanner),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scanner_slots,
};

static PyMethodDef block_methods[] = {
    {"format", block_format, METH_VARARGS, NULL},
    {"pick", block_pick, METH_O, NULL},
    {"numbers", block_numbers, METH_O, NULL},
    {"trades", block_trades, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef block_attributes[] = {
    {"channels", block_channels, NULL, NULL, NULL},   {"symbols", block_symbols, NULL, NULL, NULL},
    {"times_ms", block_times, NULL, NULL, NULL},      {"fragments", block_fragments, NULL, NULL, NULL},
    {"counts", block_counts, NULL, NULL, NULL},       {"span_ms", block_span, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot block_slots[] = {
    {Py_tp_dealloc, block_dealloc},
    {Py_sq_length, block_length},
    {Py_tp_methods, block_methods},
    {Py_tp_getset, block_attributes},
    {0, NULL},
};
static PyType_Spec block_spec = {
    .name = "recorder._native.Block",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

static PyMethodDef records_methods[] = {
    {"between", records_between, METH_VARARGS, NULL},
    {"frame", records_frame, METH_VARARGS, NULL},
    {"lines", records_lines, METH_NOARGS, NULL},
    {"names", records_names, METH_NOARGS, NULL},
    {"part", records_part, METH_VARARGS, NULL},
    {"payload_bytes", records_payload_bytes, METH_VARARGS, NULL},
    {"payload_lines", records_payload_lines, METH_NOARGS, NULL},
    {"payloads", records_payloads, METH_VARARGS, NULL},
    {"pick", records_pick, METH_O, NULL},
    {"place_of", records_place_of, METH_O, NULL},
    {"reads", records_reads, METH_NOARGS, NULL},
    {"without_hole", records_without_hole, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef records_attributes[] = {
    {"first", records_first, NULL, NULL, NULL},
    {"last", records_last, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot records_slots[] = {
    {Py_tp_dealloc, records_dealloc},
    {Py_sq_length, records_length},
    {Py_tp_methods, records_methods},
    {Py_tp_getset, records_attributes},
    {0, NULL},
};
static PyType_Spec records_spec = {
    .name = "recorder._native.Records",
    .basicsize = sizeof(Records),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = records_slots,
};

static PyType_Slot buffer_slots[] = {
    {Py_tp_dealloc, buffer_dealloc},
    {Py_bf_getbuffer, buffer_show},
    {0, NULL},
};
static PyType_Spec buffer_spec = {
    .name = "recorder._native.Buffer",
    .basicsize = sizeof(Buffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = buffer_slots,
};

static int module_exec(PyObject *module) {
    struct state *state = PyModule_GetState(module);
    state->block_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &block_spec, NULL);
    if (!state->block_type || PyModule_AddType(module, state->block_type))
        return -1;
    state->records_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &records_spec, NULL);
    if (!state->records_type || PyModule_AddType(module, state->records_type))
        return -1;
    state->buffer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &buffer_spec, NULL);
    if (!state->buffer_type || PyModule_AddType(module, state->buffer_type))
        return -1;
    PyObject *scanner_type = PyType_FromModuleAndSpec(module, &scanner_spec, NULL);
    int failed = !scanner_type || PyModule_AddType(module, (PyTypeObject *)scanner_type);
    Py_XDECREF(scanner_type);
    return failed ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    struct state *state = PyModule_GetState(module);
    Py_VISIT(state->block_type);
    Py_VISIT(state->records_type);
    Py_VISIT(state->buffer_type);
    return 0;
}

static int module_clear(PyObject *module) {
    struct state *state = PyModule_GetState(module);
    Py_CLEAR(state->block_type);
    Py_CLEAR(state->records_type);
    Py_CLEAR(state->buffer_type);
    return 0;
}

static PyMethodDef functions[] = {
    {"split", split, METH_VARARGS, NULL},
    {"index", index_frames, METH_VARARGS, NULL},
    {"cut", cut, METH_O, NULL},
    {"merge", merge, METH_O, NULL},
    {"tabulate", tabulate, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "recorder._native",
    .m_size = sizeof(struct state),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&definition);
}
