/* COCO run-length encoding of masks: the inner loops of encode and decode in masks.py.

   Plain C99 for any compiler, without Python's or PyTorch's headers; masks.py calls it through ctypes.
   - A mask is [height, width] bytes of 0 and 1, row after row. Runs go down its columns, the first one is of zeros.
   - Strings of several masks lie one after the other in `text`; ends[i] is where string i ends. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif

#define MAX_CHARACTERS 7 /* of one count: 35 bits, enough for any difference of two counts */
#define BLOCK 64         /* bytes of two rows compared at once */

EXPORT void *PyInit_masks_native(void) { return NULL; } /* setuptools builds this as if it were a Python module */
EXPORT void masks_free(void *memory) { free(memory); }

/* Room for `needed` items of `size` bytes, with some to spare; 0 when memory runs out. */
static int reserve(void **items, int64_t *capacity, int64_t needed, size_t size) {
    void *more = needed <= *capacity ? NULL : realloc(*items, (size_t)(2 * needed + 4096) * size);
    if (!more) return needed <= *capacity;
    *items = more;
    *capacity = 2 * needed + 4096;
    return 1;
}

typedef struct {
    int64_t index, last[2]; /* counts so far; the last two of them, that of index i at i & 1 */
} History;                  /* from the fourth count on, the difference to the one two before is stored */

typedef struct {
    void *places;    /* uint64_t: column << 32 | row of each change */
    void *positions; /* uint32_t: the same in the order of the runs */
    void *text;      /* char */
    int64_t places_capacity, positions_capacity, text_capacity;
    int64_t *slots; /* [width + 1] where the changes of each column go */
} Scratch;

static char *write_count(char *out, History *history, int64_t count) {
    int64_t value = history->index > 2 ? count - history->last[history->index & 1] : count;
    int more = 1;
    while (more) {
        int code = (int)(value & 31);
        value >>= 5;
        more = (code & 16) ? value != -1 : value != 0;
        *out++ = (char)(48 + (code | (more ? 32 : 0)));
    }
    history->last[history->index++ & 1] = count;
    return out;
}

static int blocks_differ(const uint8_t *a, const uint8_t *b) {
    uint64_t x, y, all = 0;
    int i;
    for (i = 0; i < BLOCK; i += 8, all |= x ^ y) memcpy(&x, a + i, 8), memcpy(&y, b + i, 8);
    return all != 0;
}

/* The places begin to end where two rows differ, without a branch that depends on them; writes one too many. */
static int64_t find(const uint8_t *above, const uint8_t *row, int64_t begin, int64_t end, int64_t y, uint64_t *out) {
    int64_t x, found = 0;
    for (x = begin; x < end; x++) {
        out[found] = (uint64_t)x << 32 | (uint64_t)y;
        found += above[x] != row[x];
    }
    return found;
}

/* The places where the value changes down the columns, row after row: how many, or -1 when memory runs out. */
static int64_t find_changes(const uint8_t *mask, int64_t height, int64_t width, Scratch *scratch) {
    int64_t x, y, part, found = 0;
    for (y = 0; y < height; y++) { /* the top of a column goes on from the bottom of the one before */
        const uint8_t *row = mask + y * width, *above = y ? row - width : mask + (height - 1) * width - 1;
        uint64_t *out;
        if (!reserve(&scratch->places, &scratch->places_capacity, found + width + 1, sizeof *out)) return -1;
        out = scratch->places;
        if (y == 0) out[0] = 0, found = row[0];
        for (x = y == 0; x + BLOCK <= width; x += BLOCK)
            if (blocks_differ(above + x, row + x))
                for (part = x; part < x + BLOCK; part += 8)
                    if (memcmp(above + part, row + part, 8) != 0)
                        found += find(above, row, part, part + 8, y, out + found);
        found += find(above, row, x, width, y, out + found);
    }
    return found;
}

/* Counting sort of the changes by column, where they are in order already; to positions down the columns. */
static void sort_changes(Scratch *scratch, int64_t found, int64_t height, int64_t width) {
    const uint64_t *places = scratch->places;
    uint32_t *positions = scratch->positions;
    int64_t i, x, *slots = scratch->slots;
    memset(slots, 0, (size_t)(width + 1) * sizeof *slots);
    for (i = 0; i < found; i++) slots[(places[i] >> 32) + 1]++;
    for (x = 0; x < width; x++) slots[x + 1] += slots[x];
    for (i = 0; i < found; i++)
        positions[slots[places[i] >> 32]++] = (uint32_t)(places[i] >> 32) * (uint32_t)height + (uint32_t)places[i];
}

/* Appends the string of a mask at `used`; returns where it ends, or -1 when memory runs out. */
static int64_t encode_one(const uint8_t *mask, int64_t height, int64_t width, Scratch *scratch, int64_t used) {
    History history = {0, {0, 0}};
    int64_t i, last = 0, found = width > 0 ? find_changes(mask, height, width, scratch) : 0;
    char *out;
    if (found < 0 || !reserve(&scratch->positions, &scratch->positions_capacity, found, sizeof(uint32_t)) ||
        !reserve(&scratch->text, &scratch->text_capacity, used + (found + 1) * MAX_CHARACTERS, 1))
        return -1;
    if (found) sort_changes(scratch, found, height, width);
    out = (char *)scratch->text + used;
    for (i = 0; i < found; i++) {
        int64_t position = ((uint32_t *)scratch->positions)[i];
        out = write_count(out, &history, position - last);
        last = position;
    }
    return write_count(out, &history, height * width - last) - (char *)scratch->text;
}

/* Returns the length of all strings together, -1 when memory runs out; the caller frees *text with masks_free. */
EXPORT int64_t masks_encode(const uint8_t *masks, int64_t number, int64_t height, int64_t width, char **text,
                            int64_t *ends) {
    Scratch scratch = {NULL, NULL, NULL, 0, 0, 0, malloc((size_t)(width + 1) * sizeof(int64_t))};
    int64_t i, used = scratch.slots ? 0 : -1;
    for (i = 0; i < number && used >= 0; i++)
        ends[i] = used = encode_one(masks + i * height * width, height, width, &scratch, used);
    free(scratch.places);
    free(scratch.positions);
    free(scratch.slots);
    *text = scratch.text;
    return used;
}

/* The next count of a string, or -1 where the string is broken, negative or beyond `limit`. */
static int64_t read_count(const char **at, const char *end, History *history, int64_t limit) {
    int64_t value = 0;
    int shift = 0, code = 32;
    while (code & 32) {
        if (*at == end || shift == 5 * MAX_CHARACTERS) return -1;
        code = (unsigned char)*(*at)++ - 48;
        if (code < 0 || code > 63) return -1;
        value |= (int64_t)(code & 31) << shift;
        shift += 5;
    }
    if (code & 16) value -= (int64_t)1 << shift;
    if (history->index > 2) value += history->last[history->index & 1];
    if (value < 0 || value > limit) return -1;
    history->last[history->index++ & 1] = value;
    return value;
}

/* Marks where a mask changes within its columns: a running xor down the rows then fills them. */
static void mark_run(uint8_t *mask, int64_t begin, int64_t end, int64_t height, int64_t width) {
    int64_t column = begin / height, row = begin % height;
    mask[row * width + column] ^= 1;
    for (row += end - begin; row > height; row -= height) mask[++column] ^= 1;
    if (row < height) mask[row * width + column] ^= 1;
}

/* Reads a string into a mask of zeros, or only checks it (mask NULL); 0 if it does not describe a mask of its size. */
static int read_mask(const char *at, const char *end, int64_t height, int64_t width, uint8_t *mask) {
    History history = {0, {0, 0}};
    int64_t area = height * width, position = 0, left = width, right = 0, x, y; /* columns left to right hold ones */
    if (at == end) return 0;
    while (at != end) {
        int64_t count = read_count(&at, end, &history, area - position);
        if (count < 0) return 0;
        if (mask && count && history.index % 2 == 0) {
            mark_run(mask, position, position + count, height, width);
            if (left == width) left = position / height;
            right = (position + count - 1) / height + 1;
        }
        position += count;
    }
    for (y = 1; mask && y < height && left < right; y++) {
        uint8_t *row = mask + y * width;
        for (x = left; x < right; x++) row[x] ^= row[x - width];
    }
    return position == area;
}

/* Strings of masks of sizes [number, 2] (height, width) into masks of zeros, one after the other; or, masks NULL,
   only checks them. Returns the index of the first string that does not describe a mask of its size; -1: none. */
EXPORT int64_t masks_decode(const char *text, const int64_t *ends, const int64_t *sizes, int64_t number,
                            uint8_t *masks) {
    const char *at = text;
    int64_t i;
    for (i = 0; i < number; at = text + ends[i++]) {
        int64_t height = sizes[2 * i], width = sizes[2 * i + 1];
        if (!read_mask(at, text + ends[i], height, width, masks)) return i;
        if (masks) masks += height * width;
    }
    return -1;
}
