/* What is read from the exchange, free of Python: WebSocket frames.
 *
 * Each rule accepts the usual form and refuses every other. The caller has a slower way for what is refused, so that
 * nothing here needs to know what is an error and what is only rare.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
