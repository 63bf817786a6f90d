/* recorder._native: the hot path in C. recorder/_native.pyi says what each part does; scan.h does the reading. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

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
 * They are made for each interpreter that imports the module, and kept in its state. Neither takes part in garbage
 * collection: a Scanner refers to str, a Block to bytes and its Scanner, and none of these refers back.
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
    PyTypeObject *block_type;
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

static int module_exec(PyObject *module) {
    struct state *state = PyModule_GetState(module);
    state->block_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &block_spec, NULL);
    if (!state->block_type || PyModule_AddType(module, state->block_type))
        return -1;
    PyObject *scanner_type = PyType_FromModuleAndSpec(module, &scanner_spec, NULL);
    int failed = !scanner_type || PyModule_AddType(module, (PyTypeObject *)scanner_type);
    Py_XDECREF(scanner_type);
    return failed ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    Py_VISIT(((struct state *)PyModule_GetState(module))->block_type);
    return 0;
}

static int module_clear(PyObject *module) {
    Py_CLEAR(((struct state *)PyModule_GetState(module))->block_type);
    return 0;
}

static PyMethodDef functions[] = {
    {"split", split, METH_VARARGS, NULL},
    {"index", index_frames, METH_VARARGS, NULL},
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
