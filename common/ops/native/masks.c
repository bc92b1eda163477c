/* COCO run-length encoding of masks: the inner loops of common/ops/masks.py, equal in every result to masks_numpy.py.

   Plain C99 for any compiler, without Python's or PyTorch's headers; masks_c.py calls it through ctypes.
   - A mask is [height, width] bytes of 0 and 1, row after row. Runs go down its columns, the first one is of zeros.
   - Strings of several masks lie one after the other in `text`; ends[i] is where string i ends.
   - Functions that allocate return -1 when memory runs out; the caller frees text with masks_free. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define EXPORT __attribute__((visibility("default")))
#else
#define EXPORT
#endif

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#endif

#if defined(_MSC_VER)
#define RESTRICT __restrict
#else
#define RESTRICT restrict
#endif

/* A fused multiply-add would round the edges of polygons otherwise than pycocotools does. */
#if defined(__GNUC__) && !defined(__clang__)
#define NO_FUSING __attribute__((optimize("fp-contract=off")))
#else
#pragma STDC FP_CONTRACT OFF
#define NO_FUSING
#endif

#define MAX_CHARACTERS 7 /* of one count: 35 bits, enough for any difference of two counts */
#define BLOCK 64         /* bytes of two rows compared at once */

/* setuptools builds this file as if it were a Python module and wants this name exported. */
EXPORT void *PyInit_masks(void) { return NULL; }

EXPORT void masks_free(void *memory) { free(memory); }

/* ---- growing buffers ---- */

typedef struct {
    char *bytes;
    int64_t used, capacity;
} Text;

/* Room for `more` bytes; 0 when memory runs out. */
static int reserve(Text *text, int64_t more) {
    int64_t capacity = text->capacity;
    char *bytes;
    if (text->used + more <= capacity) return 1;
    while (capacity < text->used + more) capacity = capacity * 2 + 4096;
    bytes = realloc(text->bytes, (size_t)capacity);
    if (!bytes) return 0;
    text->bytes = bytes;
    text->capacity = capacity;
    return 1;
}

/* ---- writing and reading strings ---- */

typedef struct {
    int64_t index, last, before_last;
} History; /* from the fourth count on, the difference to the one two before is stored */

static char *write_count(char *out, History *history, int64_t count) {
    int64_t value = history->index > 2 ? count - history->before_last : count;
    int more = 1;
    while (more) {
        int code = (int)(value & 31);
        value >>= 5;
        more = (code & 16) ? value != -1 : value != 0;
        *out++ = (char)(48 + (code | (more ? 32 : 0)));
    }
    history->before_last = history->last;
    history->last = count;
    history->index++;
    return out;
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
    if (history->index > 2) value += history->before_last;
    if (value < 0 || value > limit) return -1;
    history->before_last = history->last;
    history->last = value;
    history->index++;
    return value;
}

static const char *string_at(const char *text, const int64_t *ends, int64_t index, const char **end) {
    *end = text + ends[index];
    return text + (index ? ends[index - 1] : 0);
}

/* Positions where the value changes, ascending -> string. */
static int write_string(Text *text, const uint32_t *changes, int64_t number, int64_t area) {
    History history = {0, 0, 0};
    int64_t i, last = 0;
    char *out;
    if (!reserve(text, (number + 1) * MAX_CHARACTERS)) return 0;
    out = text->bytes + text->used;
    for (i = 0; i < number; i++) {
        out = write_count(out, &history, changes[i] - last);
        last = changes[i];
    }
    out = write_count(out, &history, area - last);
    text->used = out - text->bytes;
    return 1;
}

/* ---- masks -> strings ---- */

typedef struct {
    uint32_t *columns;  /* of the changes found so far, row after row */
    uint32_t *sorted;   /* their positions, column after column */
    int64_t capacity;
    int64_t *row_ends;  /* [height] number of changes up to and including each row */
    int64_t *slots;     /* [width + 1] where the changes of each column go */
} Changes;

static int more_changes(Changes *changes, int64_t needed) {
    int64_t capacity = changes->capacity;
    uint32_t *columns;
    if (needed <= capacity) return 1;
    while (capacity < needed) capacity = capacity * 2 + 4096;
    columns = realloc(changes->columns, (size_t)capacity * sizeof *columns);
    if (!columns) return 0;
    changes->columns = columns;
    free(changes->sorted);
    changes->sorted = malloc((size_t)capacity * sizeof *columns);
    changes->capacity = changes->sorted ? capacity : 0;
    return changes->sorted != NULL;
}

static int blocks_differ(const uint8_t *a, const uint8_t *b) {
#if defined(__SSE2__) || defined(_M_X64)
    __m128i all = _mm_setzero_si128();
    int i;
    for (i = 0; i < BLOCK; i += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(a + i)), y = _mm_loadu_si128((const __m128i *)(b + i));
        all = _mm_or_si128(all, _mm_xor_si128(x, y));
    }
    return _mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_setzero_si128())) != 0xFFFF;
#else
    uint64_t x[BLOCK / 8], y[BLOCK / 8], all = 0;
    int i;
    memcpy(x, a, BLOCK);
    memcpy(y, b, BLOCK);
    for (i = 0; i < BLOCK / 8; i++) all |= x[i] ^ y[i];
    return all != 0;
#endif
}

/* Appends the columns where two rows differ, without a branch that depends on them. */
static int64_t find_in_block(const uint8_t *a, const uint8_t *b, int64_t begin, int64_t end, uint32_t *out) {
    int64_t x, found = 0;
    for (x = begin; x < end; x++) {
        out[found] = (uint32_t)x;
        found += a[x] != b[x];
    }
    return found;
}

static int64_t find_in_rows(const uint8_t *a, const uint8_t *b, int64_t width, Changes *changes, int64_t found) {
    int64_t x = 0;
    for (; x + BLOCK <= width; x += BLOCK) {
        int64_t part;
        if (!blocks_differ(a + x, b + x)) continue;
        if (!more_changes(changes, found + BLOCK + 1)) return -1;
        for (part = x; part < x + BLOCK; part += 8)
            if (memcmp(a + part, b + part, 8) != 0)
                found += find_in_block(a, b, part, part + 8, changes->columns + found);
    }
    if (!more_changes(changes, found + BLOCK + 1)) return -1;
    return found + find_in_block(a, b, x, width, changes->columns + found);
}

/* The top of a column goes on from the bottom of the one before. */
static int64_t find_in_top_row(const uint8_t *mask, int64_t height, int64_t width, Changes *changes) {
    const uint8_t *bottom = mask + (height - 1) * width;
    int64_t x, found = 0;
    if (!more_changes(changes, width + BLOCK)) return -1;
    for (x = 0; x < width; x++) {
        changes->columns[found] = (uint32_t)x;
        found += mask[x] != (x ? bottom[x - 1] : 0);
    }
    return found;
}

/* Counting sort of the changes by column; within a column they are in order already. */
static void sort_changes(Changes *changes, int64_t height, int64_t width) {
    int64_t i = 0, x, y;
    int64_t found = changes->row_ends[height - 1];
    memset(changes->slots, 0, (size_t)(width + 1) * sizeof *changes->slots);
    for (; i < found; i++) changes->slots[changes->columns[i] + 1]++;
    for (x = 0; x < width; x++) changes->slots[x + 1] += changes->slots[x];
    for (i = 0, y = 0; y < height; y++)
        for (; i < changes->row_ends[y]; i++) {
            uint32_t column = changes->columns[i];
            changes->sorted[changes->slots[column]++] = (uint32_t)(column * height + y);
        }
}

static int encode_one(const uint8_t *mask, int64_t height, int64_t width, Changes *changes, Text *text) {
    int64_t y, found = 0;
    if (height * width > 0) {
        found = find_in_top_row(mask, height, width, changes);
        for (y = 0; y < height && found >= 0; y++) {
            if (y) found = find_in_rows(mask + (y - 1) * width, mask + y * width, width, changes, found);
            changes->row_ends[y] = found;
        }
        if (found < 0) return 0;
        sort_changes(changes, height, width);
    }
    return write_string(text, changes->sorted, found, height * width);
}

/* Returns the length of all strings together. */
EXPORT int64_t masks_encode(const uint8_t *masks, int64_t number, int64_t height, int64_t width, char **out,
                            int64_t *ends) {
    Changes changes = {NULL, NULL, 0, NULL, NULL};
    Text text = {NULL, 0, 0};
    int64_t i;
    int fine;
    changes.row_ends = malloc((size_t)(height + 1) * sizeof(int64_t));
    changes.slots = malloc((size_t)(width + 1) * sizeof(int64_t));
    fine = changes.row_ends && changes.slots;
    for (i = 0; i < number && fine; i++) {
        fine = encode_one(masks + i * height * width, height, width, &changes, &text);
        ends[i] = text.used;
    }
    free(changes.columns);
    free(changes.sorted);
    free(changes.row_ends);
    free(changes.slots);
    *out = text.bytes;
    return fine ? text.used : -1;
}

/* ---- strings -> what they say ---- */

/* Index of the first string that is broken or does not describe a mask of its area; -1 if all are sound. */
EXPORT int64_t masks_first_bad(const char *text, const int64_t *ends, const int64_t *areas, int64_t number) {
    int64_t i;
    for (i = 0; i < number; i++) {
        History history = {0, 0, 0};
        const char *end, *at = string_at(text, ends, i, &end);
        int64_t left = areas[i];
        if (at == end) return i;
        while (at != end) {
            int64_t count = read_count(&at, end, &history, left);
            if (count < 0) return i;
            left -= count;
        }
        if (left) return i;
    }
    return -1;
}

/* Marks where a mask changes within its columns: a running xor down the rows then fills them. */
static void mark_run(uint8_t *mask, int64_t begin, int64_t end, int64_t height, int64_t width) {
    int64_t column = begin / height, row = begin % height;
    mask[row * width + column] ^= 1;
    for (row += end - begin; row > height; row -= height) mask[++column] ^= 1;
    if (row < height) mask[row * width + column] ^= 1;
}

static void xor_row(uint8_t *RESTRICT row, const uint8_t *RESTRICT above, int64_t width) {
    int64_t x;
    for (x = 0; x < width; x++) row[x] ^= above[x];
}

/* Sound strings -> masks, which must be zeros before. */
EXPORT void masks_decode(const char *text, const int64_t *ends, int64_t number, int64_t height, int64_t width,
                         uint8_t *masks) {
    int64_t i, y, area = height * width;
    for (i = 0; i < number && area; i++) {
        History history = {0, 0, 0};
        const char *end, *at = string_at(text, ends, i, &end);
        uint8_t *mask = masks + i * area;
        int64_t position = 0, left = width, right = 0; /* the columns that hold ones */
        while (at != end) {
            int64_t count = read_count(&at, end, &history, area);
            if (count > 0 && history.index % 2 == 0) {
                mark_run(mask, position, position + count, height, width);
                if (left == width) left = position / height;
                right = (position + count - 1) / height + 1;
            }
            position += count;
        }
        for (y = 1; y < height && left < right; y++)
            xor_row(mask + y * width + left, mask + (y - 1) * width + left, right - left);
    }
}

EXPORT void masks_areas(const char *text, const int64_t *ends, int64_t number, int64_t *areas) {
    int64_t i;
    for (i = 0; i < number; i++) {
        History history = {0, 0, 0};
        const char *end, *at = string_at(text, ends, i, &end);
        areas[i] = 0;
        while (at != end) {
            int64_t count = read_count(&at, end, &history, INT64_MAX);
            if (history.index % 2 == 0) areas[i] += count;
        }
    }
}

/* boxes [number, 4]: x, y, width, height; zeros for an empty mask. */
EXPORT void masks_boxes(const char *text, const int64_t *ends, const int64_t *heights, int64_t number,
                        double *boxes) {
    int64_t i;
    for (i = 0; i < number; i++) {
        History history = {0, 0, 0};
        const char *end, *at = string_at(text, ends, i, &end);
        int64_t height = heights[i], position = 0, left = -1, right = 0, top = height, bottom = 0;
        while (at != end) {
            int64_t count = read_count(&at, end, &history, INT64_MAX), begin = position, final;
            position += count;
            if (history.index % 2 != 0 || !count) continue;
            final = position - 1;
            if (left < 0) left = begin / height;
            right = final / height;
            if (begin / height != right) { /* a run over several columns touches top and bottom */
                top = 0;
                bottom = height - 1;
            }
            if (begin % height < top) top = begin % height;
            if (final % height > bottom) bottom = final % height;
        }
        if (left < 0) left = top = 0, right = bottom = -1;
        boxes[4 * i] = (double)left;
        boxes[4 * i + 1] = (double)top;
        boxes[4 * i + 2] = (double)(right - left + 1);
        boxes[4 * i + 3] = (double)(bottom - top + 1);
    }
}

/* ---- intersection over union ---- */

/* All counts of sound strings; starts [number + 1] says which belong to which. */
static int64_t *read_all(const char *text, const int64_t *ends, int64_t number, int64_t *starts) {
    int64_t i, used = 0;
    int64_t *counts = malloc((size_t)(number ? ends[number - 1] + 1 : 1) * sizeof *counts); /* <= one a character */
    if (!counts) return NULL;
    for (i = 0; i < number; i++) {
        History history = {0, 0, 0};
        const char *end, *at = string_at(text, ends, i, &end);
        starts[i] = used;
        while (at != end) counts[used++] = read_count(&at, end, &history, INT64_MAX);
    }
    starts[number] = used;
    return counts;
}

static int64_t intersection(const int64_t *a, int64_t number_a, const int64_t *b, int64_t number_b) {
    int64_t i = 0, j = 0, left_a = a[0], left_b = b[0], shared = 0;
    for (;;) {
        int64_t step = left_a < left_b ? left_a : left_b;
        if (i & j & 1) shared += step;
        left_a -= step;
        left_b -= step;
        if (!left_a) {
            if (++i == number_a) return shared;
            left_a = a[i];
        }
        if (!left_b) {
            if (++j == number_b) return shared;
            left_b = b[j];
        }
    }
}

static int boxes_meet(const double *a, const double *b) {
    return a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3];
}

/* result [number_a, number_b]; where crowd, over the area of a alone. */
EXPORT int64_t masks_iou(const char *text_a, const int64_t *ends_a, const double *boxes_a, int64_t number_a,
                         const char *text_b, const int64_t *ends_b, const double *boxes_b, int64_t number_b,
                         const uint8_t *crowd, double *result) {
    int64_t i, j, k;
    int64_t *starts = malloc((size_t)(2 * (number_a + number_b) + 2) * sizeof *starts);
    int64_t *starts_b = starts + number_a + 1, *areas = starts_b + number_b + 1; /* areas of a, then of b */
    int64_t *a = starts ? read_all(text_a, ends_a, number_a, starts) : NULL;
    int64_t *b = a ? read_all(text_b, ends_b, number_b, starts_b) : NULL;
    if (b) {
        masks_areas(text_a, ends_a, number_a, areas);
        masks_areas(text_b, ends_b, number_b, areas + number_a);
        for (i = 0, k = 0; i < number_a; i++)
            for (j = 0; j < number_b; j++, k++) {
                int64_t shared = 0, whole = areas[i];
                if (boxes_meet(boxes_a + 4 * i, boxes_b + 4 * j))
                    shared = intersection(a + starts[i], starts[i + 1] - starts[i], b + starts_b[j],
                                          starts_b[j + 1] - starts_b[j]);
                if (!crowd[j]) whole += areas[number_a + j] - shared;
                result[k] = shared ? (double)shared / (double)whole : 0.0;
            }
    }
    free(a);
    free(b);
    free(starts);
    return b ? 0 : -1;
}

/* ---- polygons -> strings ---- */

typedef struct {
    uint32_t *positions;
    int64_t used, capacity;
} Positions;

static int append(Positions *list, uint32_t position) {
    if (list->used == list->capacity) {
        int64_t capacity = list->capacity * 2 + 256;
        uint32_t *positions = realloc(list->positions, (size_t)capacity * sizeof *positions);
        if (!positions) return 0;
        list->positions = positions;
        list->capacity = capacity;
    }
    list->positions[list->used++] = position;
    return 1;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Outlines are drawn on a grid five times finer; where one steps over the middle of a pixel column, the mask
   changes at the pixel row of that place. */
static int cross_column(int x0, int y0, int x1, int y1, int64_t height, int64_t width, Positions *list) {
    int left = x1 < x0 ? x1 : x1 - 1, low = y0 < y1 ? y0 : y1;
    int64_t column = (left - 2) / 5, row = low <= 2 ? 0 : (low + 2) / 5; /* pixel i has its middle at 5 i + 2 */
    if (left < 0 || left % 5 != 2 || column >= width) return 1;
    return append(list, (uint32_t)(column * height + (row < height ? row : height)));
}

/* The points of one edge in the order of its direction; last_x, last_y is the point before. */
NO_FUSING static int draw_edge(int xs, int ys, int xe, int ye, int *last_x, int *last_y, int64_t height,
                               int64_t width, Positions *list) {
    int dx = abs(xe - xs), dy = abs(ye - ys), wide = dx >= dy, steps = wide ? dx : dy, d;
    int flip = wide ? xs > xe : ys > ye;
    int x0 = flip ? xe : xs, y0 = flip ? ye : ys, x1 = flip ? xs : xe, y1 = flip ? ys : ye;
    double slope = (double)(wide ? y1 - y0 : x1 - x0) / (steps ? steps : 1);
    for (d = 0; d <= steps; d++) {
        int t = flip ? steps - d : d;
        int x = wide ? x0 + t : (int)(x0 + slope * t + 0.5);
        int y = wide ? (int)(y0 + slope * t + 0.5) : y0 + t;
        if (x != *last_x && *last_x != INT32_MIN && !cross_column(*last_x, *last_y, x, y, height, width, list))
            return 0;
        *last_x = x;
        *last_y = y;
    }
    return 1;
}

/* Corners [number, 2] -> positions of change, ascending; two at the same place cancel. */
NO_FUSING static int draw_polygon(const double *corners, int64_t number, int64_t height, int64_t width,
                                  Positions *list) {
    int last_x = INT32_MIN, last_y = 0;
    int64_t i, kept = 0;
    list->used = 0;
    for (i = 0; i < number; i++) {
        const double *from = corners + 2 * i, *to = corners + 2 * ((i + 1) % number);
        if (!draw_edge((int)(5.0 * from[0] + 0.5), (int)(5.0 * from[1] + 0.5), (int)(5.0 * to[0] + 0.5),
                       (int)(5.0 * to[1] + 0.5), &last_x, &last_y, height, width, list))
            return 0;
    }
    if (list->used) qsort(list->positions, (size_t)list->used, sizeof *list->positions, ascending);
    for (i = 0; i < list->used; i++) {
        if (kept && list->positions[kept - 1] == list->positions[i]) kept--;
        else list->positions[kept++] = list->positions[i];
    }
    if (kept && list->positions[kept - 1] == (uint32_t)(height * width)) kept--;
    list->used = kept;
    return 1;
}

/* Positions of change of the union of a and b, into `both`. */
static int unite(const Positions *a, const Positions *b, Positions *both) {
    int64_t i = 0, j = 0;
    int covered = 0;
    both->used = 0;
    while (i < a->used || j < b->used) {
        uint32_t position;
        if (j == b->used || (i < a->used && a->positions[i] <= b->positions[j])) position = a->positions[i];
        else position = b->positions[j];
        if (i < a->used && a->positions[i] == position) i++;
        if (j < b->used && b->positions[j] == position) j++;
        if (covered != (int)((i | j) & 1)) { /* an odd number of changes so far: inside of that one */
            covered = !covered;
            if (!append(both, position)) return 0;
        }
    }
    return 1;
}

/* The union of polygons, whose corners lie one after the other, each up to polygon_ends[i] (in corners). */
EXPORT int64_t masks_from_polygons(const double *corners, const int64_t *polygon_ends, int64_t number,
                                   int64_t height, int64_t width, char **out) {
    Positions all = {NULL, 0, 0}, one = {NULL, 0, 0}, both = {NULL, 0, 0}, swap;
    Text text = {NULL, 0, 0};
    int64_t i, start = 0;
    int fine = 1;
    for (i = 0; i < number && fine; i++) {
        fine = draw_polygon(corners + 2 * start, polygon_ends[i] - start, height, width, i ? &one : &all);
        if (i && fine) {
            fine = unite(&all, &one, &both);
            swap = all;
            all = both;
            both = swap;
        }
        start = polygon_ends[i];
    }
    fine = fine && write_string(&text, all.positions, all.used, height * width);
    free(all.positions);
    free(one.positions);
    free(both.positions);
    *out = text.bytes;
    return fine ? text.used : -1;
}

/* ---- maps of ids ---- */

static int64_t id_at(const uint8_t *picture, int64_t pixel) {
    const uint8_t *p = picture + 3 * pixel;
    return p[2] | (int64_t)p[1] << 8 | (int64_t)p[0] << 16;
}

static int same_as_before(const uint8_t *picture, int64_t pixel) {
    const uint8_t *p = picture + 3 * pixel;
    return p[0] == p[-3] && p[1] == p[-2] && p[2] == p[-1];
}

/* The first pixel after `pixel` where either picture changes. */
static int64_t run_end(const uint8_t *a, const uint8_t *b, int64_t pixel, int64_t pixels) {
    pixel++;
    while (3 * pixel + BLOCK <= 3 * pixels && !blocks_differ(a + 3 * pixel - 3, a + 3 * pixel) &&
           !blocks_differ(b + 3 * pixel - 3, b + 3 * pixel))
        pixel += BLOCK / 3;
    while (pixel < pixels && same_as_before(a, pixel) && same_as_before(b, pixel)) pixel++;
    return pixel;
}

/* Two pictures [pixels, 3] of ids (blue, green, red) -> the pairs id of a << 24 | id of b that occur, and in how many
   pixels each. A hash table of 2^bits entries; returns how many pairs there are, -1 if more than half of the table. */
EXPORT int64_t masks_count_pairs(const uint8_t *a, const uint8_t *b, int64_t pixels, int64_t bits, int64_t *pairs,
                                 int64_t *counts) {
    int64_t capacity = (int64_t)1 << bits, pixel = 0, used = 0, i;
    for (i = 0; i < capacity; i++) pairs[i] = -1;
    while (pixel < pixels) {
        int64_t pair = id_at(a, pixel) << 24 | id_at(b, pixel), end = run_end(a, b, pixel, pixels);
        int64_t slot = (int64_t)(((uint64_t)pair * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - bits));
        while (pairs[slot] != pair && pairs[slot] >= 0) slot = (slot + 1) & (capacity - 1);
        if (pairs[slot] < 0) {
            if (++used > capacity / 2) return -1;
            pairs[slot] = pair;
            counts[slot] = 0;
        }
        counts[slot] += end - pixel;
        pixel = end;
    }
    for (i = 0, used = 0; i < capacity; i++)
        if (pairs[i] >= 0) {
            pairs[used] = pairs[i];
            counts[used++] = counts[i];
        }
    return used;
}
