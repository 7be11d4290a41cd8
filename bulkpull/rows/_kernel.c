/* The scan of CSV blocks, compiled: `numpy_scan.py` finds the same with NumPy.
 *
 * One pass over the bytes, in steps of 64. For each step a mask of quotes, commas, newlines and carriage returns is made
 * with the widest comparison that the processor has. The number of quotes before a byte tells whether it is inside
 * quotes: a prefix XOR of the mask of quotes (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019). What
 * is left are the ends of the fields. Everything that is not plain (see `scan`) ends the pass before its record.
 *
 * From the ends of the fields, `columns` and `json_lines` render the values: as the buffers of Arrow arrays, and as JSON.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define HAS_SSE2 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define HAS_NEON 1
#endif

#define STEP 64
#define STEPS_AT_ONCE 64 /* 4 KiB of data: their masks stay in the first level cache */
#define LONG_ID 1024     /* bytes, from which on Python computes the key */
#define READ_BYTES 4096  /* of a file at a time, to compare it */
#define INSTANT 24       /* bytes of 2024-01-31T23:59:59.999Z */
#define PADDING 16       /* bytes behind a copy that may be written, since 16 bytes are copied at a time */
#define TILE_ROWS 64     /* taken at a time: they stay in the first level cache, while each column is copied */

typedef struct {
    uint64_t quotes, commas, newlines, returns;
} Masks;

typedef void (*MakeMasks)(const uint8_t *data, size_t steps, Masks *masks);

/* 64-bit words, on any processor */

static uint64_t load_word(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static uint64_t equal_in_word(uint64_t word, uint8_t byte) {
    const uint64_t low = 0x7F7F7F7F7F7F7F7Full;
    uint64_t other = word ^ (0x0101010101010101ull * byte);
    uint64_t zero = ~(((other & low) + low) | other | low); /* 0x80 for each byte that is equal */
    return ((zero >> 7) * 0x0102040810204080ull) >> 56;
}

static void masks_by_words(const uint8_t *data, size_t steps, Masks *masks) {
    for (size_t step = 0; step < steps; step++, data += STEP) {
        Masks found = {0, 0, 0, 0};
        for (int at = 0; at < STEP; at += 8) {
            uint64_t word = load_word(data + at);
            found.quotes |= equal_in_word(word, '"') << at;
            found.commas |= equal_in_word(word, ',') << at;
            found.newlines |= equal_in_word(word, '\n') << at;
            found.returns |= equal_in_word(word, '\r') << at;
        }
        masks[step] = found;
    }
}

#ifdef HAS_SSE2
static uint64_t equal_sse2(const __m128i *parts, char byte) {
    const __m128i wanted = _mm_set1_epi8(byte);
    uint64_t found = 0;
    for (int at = 0; at < 4; at++)
        found |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(parts[at], wanted)) << (16 * at);
    return found;
}

static void masks_by_sse2(const uint8_t *data, size_t steps, Masks *masks) {
    for (size_t step = 0; step < steps; step++, data += STEP) {
        __m128i parts[4];
        for (int at = 0; at < 4; at++)
            parts[at] = _mm_loadu_si128((const __m128i *)(data + 16 * at));
        masks[step].quotes = equal_sse2(parts, '"');
        masks[step].commas = equal_sse2(parts, ',');
        masks[step].newlines = equal_sse2(parts, '\n');
        masks[step].returns = equal_sse2(parts, '\r');
    }
}

#if defined(__GNUC__) || defined(__clang__)
#define HAS_AVX2 1
__attribute__((target("avx2"))) static uint64_t equal_avx2(__m256i first, __m256i second, char byte) {
    const __m256i wanted = _mm256_set1_epi8(byte);
    uint64_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(first, wanted));
    uint64_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(second, wanted));
    return high << 32 | low;
}

__attribute__((target("avx2"))) static void masks_by_avx2(const uint8_t *data, size_t steps, Masks *masks) {
    for (size_t step = 0; step < steps; step++, data += STEP) {
        __m256i first = _mm256_loadu_si256((const __m256i *)data);
        __m256i second = _mm256_loadu_si256((const __m256i *)(data + 32));
        masks[step].quotes = equal_avx2(first, second, '"');
        masks[step].commas = equal_avx2(first, second, ',');
        masks[step].newlines = equal_avx2(first, second, '\n');
        masks[step].returns = equal_avx2(first, second, '\r');
    }
}
#endif
#endif

#ifdef HAS_NEON
static uint64_t equal_neon(const uint8x16_t *parts, uint8_t byte) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bit = vld1q_u8(bits), wanted = vdupq_n_u8(byte);
    uint8x16_t a = vandq_u8(vceqq_u8(parts[0], wanted), bit), b = vandq_u8(vceqq_u8(parts[1], wanted), bit);
    uint8x16_t c = vandq_u8(vceqq_u8(parts[2], wanted), bit), d = vandq_u8(vceqq_u8(parts[3], wanted), bit);
    uint8x16_t sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
    sums = vpaddq_u8(sums, sums);
    return vgetq_lane_u64(vreinterpretq_u64_u8(sums), 0);
}

static void masks_by_neon(const uint8_t *data, size_t steps, Masks *masks) {
    for (size_t step = 0; step < steps; step++, data += STEP) {
        uint8x16_t parts[4];
        for (int at = 0; at < 4; at++)
            parts[at] = vld1q_u8(data + 16 * at);
        masks[step].quotes = equal_neon(parts, '"');
        masks[step].commas = equal_neon(parts, ',');
        masks[step].newlines = equal_neon(parts, '\n');
        masks[step].returns = equal_neon(parts, '\r');
    }
}
#endif

#define MAX_WAYS 4

typedef struct {
    const char *name;
    MakeMasks make;
} Way;

/* What this processor can do, the fastest last. */
static int ways_here(Way *ways) {
    int count = 0;
    ways[count++] = (Way){"words", masks_by_words};
#ifdef HAS_SSE2
    ways[count++] = (Way){"sse2", masks_by_sse2};
#endif
#ifdef HAS_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        ways[count++] = (Way){"avx2", masks_by_avx2};
#endif
#ifdef HAS_NEON
    ways[count++] = (Way){"neon", masks_by_neon};
#endif
    return count;
}

/* Keys and times */

/* See `compute_keys` in scan.py. */
static uint64_t key_of(const uint8_t *id, size_t size) {
    uint64_t hash = size, first = 0;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        if (size - at >= 8) {
            word = load_word(id + at);
        } else {
            uint8_t rest[8] = {0};
            memcpy(rest, id + at, size - at);
            word = load_word(rest);
        }
        if (at == 0)
            first = word;
        hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
        hash ^= hash >> 32;
    }
    uint64_t digits = __builtin_bswap64(first); /* the first byte is the highest */
    uint64_t letters = digits >> 6 & 0x0101010101010101ull;
    digits = (digits + letters * 9) & 0x0F0F0F0F0F0F0F0Full;
    digits = (digits | digits >> 4) & 0x00FF00FF00FF00FFull;
    digits = (digits | digits >> 8) & 0x0000FFFF0000FFFFull;
    digits = (digits | digits >> 16) & 0x00000000FFFFFFFFull;
    return digits << 32 | (hash & 0xFFFFFFFFull);
}

/* Whether a text has the form 0000-00-00T00:00:00.000Z, with any digits: eight bytes at a time. */
static int is_canonical(const uint8_t *text) {
    static const uint8_t form[INSTANT + 1] = "0000-00-00T00:00:00.000Z";
    static const uint8_t kind[INSTANT + 1] = "\xF0\xF0\xF0\xF0\xFF\xF0\xF0\xFF\xF0\xF0\xFF\xF0\xF0\xFF\xF0\xF0\xFF\xF0\xF0"
                                             "\xFF\xF0\xF0\xF0\xFF"; /* F0 for a digit */
    uint64_t wrong = 0;
    for (int at = 0; at < INSTANT; at += 8) {
        const uint64_t word = load_word(text + at), wanted = load_word(form + at), mask = load_word(kind + at);
        const uint64_t six = ~mask & 0x0606060606060606ull; /* for a digit: up to 9, no carry */
        wrong |= ((word & mask) ^ wanted) | (((word + six) & mask) ^ wanted);
    }
    return !wrong;
}

static int is_before(const uint8_t *text, const uint8_t *other) {
    for (int at = 0; at < INSTANT; at += 8) {
        const uint64_t word = __builtin_bswap64(load_word(text + at)), than = __builtin_bswap64(load_word(other + at));
        if (word != than)
            return word < than;
    }
    return 0;
}

/* The scan */

typedef struct {
    uint8_t *data;
    size_t size;
    size_t width;       /* fields of each record; 0: as many as the first record has */
    size_t key_at;      /* number of the field with the id */
    Py_ssize_t time_at; /* number of the field with the time, or -1 */
    const uint8_t *start, *end; /* instants, between which the window is */
    int32_t *separators;        /* the ends of all fields */
    size_t max_separators;
    uint64_t *keys;
    int32_t *others; /* numbers of the records whose time is not in canonical form */
    size_t max_rows;
    /* results */
    size_t rows;
    size_t used;     /* bytes of the records */
    size_t outside;  /* records whose time is outside of the window */
    size_t other_count;
    size_t returns;  /* carriage returns that end a line with the newline */
} Scan;

/* Take the next record, whose newline stands at `newline`. Returns 0 if the strict reader must read it. */
static int take_record(Scan *scan, size_t newline) {
    const uint8_t *data = scan->data;
    const int32_t *fields = scan->separators + scan->rows * scan->width;
    const int has_return = newline > scan->used && data[newline - 1] == '\r';
    const size_t line_end = newline - (size_t)has_return;
    size_t begin = scan->key_at ? (size_t)fields[scan->key_at - 1] + 1 : scan->used;
    size_t end = scan->key_at + 1 < scan->width ? (size_t)fields[scan->key_at] : line_end;
    if (begin < end && data[begin] == '"') {
        begin++;
        end--;
        if (end > begin && memchr(data + begin, '"', end - begin))
            return 0;
    }
    if (begin >= end || end - begin > LONG_ID)
        return 0;
    scan->keys[scan->rows] = key_of(data + begin, end - begin);
    if (scan->time_at >= 0) {
        const size_t time_at = (size_t)scan->time_at;
        begin = time_at ? (size_t)fields[time_at - 1] + 1 : scan->used;
        end = time_at + 1 < scan->width ? (size_t)fields[time_at] : line_end;
        if (begin < end && data[begin] == '"') {
            begin++;
            end--;
        }
        if (end - begin == INSTANT && is_canonical(data + begin))
            scan->outside += is_before(data + begin, scan->start) || !is_before(data + begin, scan->end);
        else
            scan->others[scan->other_count++] = (int32_t)scan->rows;
    }
    scan->returns += (size_t)has_return;
    scan->rows++;
    scan->used = newline + 1;
    return 1;
}

/* Find the records from the start of the data to the first one that is incomplete, or needs the strict reader. */
static void find_records(Scan *scan, MakeMasks make) {
    Masks masks[STEPS_AT_ONCE];
    uint64_t inside_before = 0;  /* all ones if the step begins inside quotes */
    uint64_t edge_before = 1;    /* 1 if the byte before the step may precede an opening quote, as the start may */
    uint64_t closing_before = 0; /* 1 if the byte before the step is a closing quote */
    uint64_t return_before = 0;  /* 1 if it is a carriage return outside of quotes */
    size_t count = 0;            /* of separators */
    size_t last = scan->width - 1; /* number of the separator that ends the record; SIZE_MAX if that is unknown */
    for (size_t at = 0; at < scan->size;) {
        size_t steps = (scan->size - at) / STEP;
        uint64_t valid = ~(uint64_t)0;
        if (steps > STEPS_AT_ONCE)
            steps = STEPS_AT_ONCE;
        if (steps) {
            make(scan->data + at, steps, masks);
        } else { /* nothing is read beyond the end */
            uint8_t rest[STEP] = {0};
            memcpy(rest, scan->data + at, scan->size - at);
            make(rest, 1, masks);
            valid = ((uint64_t)1 << (scan->size - at)) - 1;
            steps = 1;
        }
        for (size_t step = 0; step < steps; step++, at += STEP) {
            const Masks found = masks[step];
            uint64_t inside = found.quotes;
            if (inside) {
                for (int shift = 1; shift < STEP; shift *= 2)
                    inside ^= inside << shift;
            }
            inside ^= inside_before;
            inside_before = 0 - (inside >> 63);
            const uint64_t edges = found.quotes | found.commas | found.newlines;
            const uint64_t opening = found.quotes & inside, closing = found.quotes & ~inside;
            const uint64_t returns = found.returns & ~inside;
            /* Quotes enclose a whole field or are doubled inside one, and a carriage return precedes a newline. */
            const uint64_t odd = valid & ((opening & ~(edges << 1 | edge_before)) |
                                          ((closing << 1 | closing_before) & ~(edges | returns)) |
                                          ((returns << 1 | return_before) & ~found.newlines));
            edge_before = edges >> 63;
            closing_before = closing >> 63;
            return_before = returns >> 63;
            const uint64_t newlines = found.newlines & ~inside;
            uint64_t separators = (found.commas & ~inside) | newlines;
            if (odd)
                separators &= (odd & (0 - odd)) - 1;
            for (; separators; separators &= separators - 1) {
                const int bit = __builtin_ctzll(separators);
                const int is_newline = (int)(newlines >> bit & 1);
                if (count == scan->max_separators)
                    return;
                scan->separators[count] = (int32_t)(at + (size_t)bit);
                if (is_newline && last == SIZE_MAX) {
                    last = count;
                    scan->width = count + 1;
                    if (scan->key_at > last || scan->time_at > (Py_ssize_t)last)
                        return;
                }
                if (is_newline != (count == last)) /* too many fields, or too few */
                    return;
                if (is_newline) {
                    if (scan->rows == scan->max_rows || !take_record(scan, at + (size_t)bit))
                        return;
                    last += scan->width;
                }
                count++;
            }
            if (odd)
                return;
        }
    }
}

/* Remove the carriage returns at the line ends of the records that were found; returns how many bytes these take then. */
static size_t remove_returns(Scan *scan) {
    uint8_t *data = scan->data;
    size_t to = 0, from = 0;
    for (size_t row = 0; row < scan->rows; row++) {
        int32_t *fields = scan->separators + row * scan->width;
        const size_t newline = (size_t)fields[scan->width - 1], shift = from - to;
        const int has_return = newline > from && data[newline - 1] == '\r';
        const size_t size = newline - from - (size_t)has_return;
        memmove(data + to, data + from, size);
        data[to + size] = '\n';
        for (size_t field = 0; field + 1 < scan->width; field++)
            fields[field] -= (int32_t)shift;
        fields[scan->width - 1] = (int32_t)(to + size);
        from = newline + 1;
        to += size + 1;
    }
    return to;
}

/* Rows */

/* Whether a file holds the bytes at an offset. Returns -1 with errno where it cannot be read. */
static int file_equals(int file, int64_t offset, const uint8_t *data, size_t size) {
    uint8_t read[READ_BYTES];
    while (size) {
        const ssize_t got = pread(file, read, size < READ_BYTES ? size : READ_BYTES, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        if (memcmp(read, data, (size_t)got))
            return 0;
        data += got;
        offset += got;
        size -= (size_t)got;
    }
    return 1;
}

/* Copy records with their fields in another order; -1 is an empty one. Returns how many bytes they take. */
static size_t copy_in_order(const uint8_t *data, const int32_t *separators, size_t rows, size_t width,
                            const int32_t *order, size_t columns, uint8_t *out, int32_t *out_separators) {
    size_t to = 0, begin = 0;
    for (size_t row = 0; row < rows; row++, separators += width) {
        for (size_t column = 0; column < columns; column++) {
            const int32_t from = order[column];
            if (from >= 0) {
                const size_t start = from ? (size_t)separators[from - 1] + 1 : begin;
                const size_t size = (size_t)separators[from] - start;
                memcpy(out + to, data + start, size);
                to += size;
            }
            *out_separators++ = (int32_t)to;
            out[to++] = column + 1 < columns ? ',' : '\n';
        }
        begin = (size_t)separators[width - 1] + 1;
    }
    return to;
}

/* Values */

/* The number of bytes of a valid UTF-8 sequence that starts at `text`; 0 if there is none. */
static size_t utf8_sequence(const uint8_t *text, size_t size) {
    const uint8_t first = text[0];
    uint8_t low = 0x80, high = 0xBF; /* of the second byte: no overlong form, no surrogate, nothing above U+10FFFF */
    size_t length;
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    if (first < 0xE0) {
        length = 2;
    } else if (first < 0xF0) {
        length = 3;
        if (first == 0xE0)
            low = 0xA0;
        else if (first == 0xED)
            high = 0x9F;
    } else {
        length = 4;
        if (first == 0xF0)
            low = 0x90;
        else if (first == 0xF4)
            high = 0x8F;
    }
    if (size < length || text[1] < low || text[1] > high)
        return 0;
    for (size_t at = 2; at < length; at++) {
        if ((text[at] & 0xC0) != 0x80)
            return 0;
    }
    return length;
}

/* Where the first sequence that is not valid UTF-8 starts; the size if there is none. */
static size_t find_invalid_utf8(const uint8_t *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        for (; size - at >= STEP; at += STEP) {
            uint64_t words[STEP / 8];
            memcpy(words, data + at, STEP);
            uint64_t any = 0;
            for (int word = 0; word < STEP / 8; word++)
                any |= words[word];
            if (any & 0x8080808080808080ull)
                break;
        }
        /* To the end of the step, or of the sequence that crosses it */
        const size_t end = size - at < STEP ? size : at + STEP;
        while (at < end) {
            const size_t length = utf8_sequence(data + at, size - at);
            if (!length)
                return at;
            at += length;
        }
    }
    return size;
}

/* Copy bytes, of which as many as `room` may be read; PADDING more may be written. */
static void copy_padded(uint8_t *to, const uint8_t *from, size_t size, size_t room) {
    if (room < size + PADDING) {
        memcpy(to, from, size);
        return;
    }
    for (size_t at = 0; at < size; at += PADDING)
        memcpy(to + at, from + at, PADDING);
}

/* Copy the value of a cell, which is followed by a separator, and return its size. */
static size_t copy_value(uint8_t *to, const uint8_t *cell, size_t size, size_t room) {
    if (size < 2 || *cell != '"') {
        copy_padded(to, cell, size, room);
        return size;
    }
    cell++;
    size -= 2;
    room--;
    const uint8_t *quote = memchr(cell, '"', size);
    if (!quote) {
        copy_padded(to, cell, size, room);
        return size;
    }
    const uint8_t *const end = cell + size;
    uint8_t *const start = to;
    while (quote) { /* two of them stand for one */
        const size_t part = (size_t)(quote - cell) + 1;
        memcpy(to, cell, part);
        to += part;
        cell += part;
        if (cell < end)
            cell++;
        quote = memchr(cell, '"', (size_t)(end - cell));
    }
    memcpy(to, cell, (size_t)(end - cell));
    return (size_t)(to - start) + (size_t)(end - cell);
}

static int64_t number_at(const uint8_t *digits, int count) {
    int64_t number = 0;
    for (int at = 0; at < count; at++)
        number = 10 * number + (digits[at] - '0');
    return number;
}

/* Read an instant in canonical form as milliseconds from 1970. Returns 0 if it has another form or does not exist. */
static int read_instant(const uint8_t *text, size_t size, int64_t *milliseconds) {
    static const uint8_t days_of[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (size != INSTANT || !is_canonical(text))
        return 0;
    const int64_t year = number_at(text, 4), month = number_at(text + 5, 2), day = number_at(text + 8, 2);
    const int64_t hour = number_at(text + 11, 2), minute = number_at(text + 14, 2), second = number_at(text + 17, 2);
    const int is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_of[month] + (month == 2 && is_leap) || hour > 23 ||
        minute > 59 || second > 59)
        return 0;
    /* Years that begin in March, so that the leap day is the last one */
    const int64_t years = year - (month < 3), months = (month + 9) % 12;
    const int64_t days = 365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1 - 719468;
    *milliseconds = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + number_at(text + 20, 3);
    return 1;
}

/* Columns */

typedef struct {
    const uint8_t *data;
    size_t size;
    const int32_t *separators; /* the ends of all cells */
    size_t rows, width;
    Py_ssize_t time_at;        /* number of the column that is read as instants instead of texts, or -1 */
    int32_t *offsets;          /* of each column: where its values start in `texts`, and where the last one ends */
    uint8_t *validity;         /* a bit for each cell, column after column: whether it is not null */
    uint8_t *texts;            /* the values, column after column, with PADDING after each column */
    int64_t *instants;         /* in milliseconds from 1970; 0 for null */
    uint8_t *instant_validity; /* a bit for each instant */
    /* results */
    size_t nulls;
} Columns;

static void clear_bit(uint8_t *bits, size_t at) {
    bits[at / 8] &= (uint8_t)~(1u << at % 8);
}

/* Read the column of times. Returns 0 if one of them has another form than the canonical one. */
static int read_instants(Columns *columns) {
    const size_t time_at = (size_t)columns->time_at;
    const int32_t *separator = columns->separators + time_at;
    for (size_t row = 0; row < columns->rows; row++, separator += columns->width) {
        size_t begin = separator == columns->separators ? 0 : (size_t)separator[-1] + 1, end = (size_t)*separator;
        if (begin == end) {
            columns->instants[row] = 0;
            clear_bit(columns->instant_validity, row);
            continue;
        }
        if (columns->data[begin] == '"' && end - begin >= 2) {
            begin++;
            end--;
        }
        if (!read_instant(columns->data + begin, end - begin, columns->instants + row))
            return 0;
    }
    return 1;
}

/* Copy the values of all other columns. */
static void copy_columns(Columns *columns) {
    const size_t rows = columns->rows, width = columns->width;
    const int32_t *const separators = columns->separators;
    int32_t *const offsets = columns->offsets;
    /* A column takes no more than its cells with their quotes do. */
    for (size_t column = 0; column < width; column++)
        offsets[column * (rows + 1)] = 0;
    int32_t begin = 0;
    for (size_t row = 0, at = 0; row < rows; row++) {
        for (size_t column = 0; column < width; column++, at++) {
            offsets[column * (rows + 1)] += separators[at] - begin;
            begin = separators[at] + 1;
        }
    }
    for (size_t column = 0, to = 0; column < width; column++) {
        const size_t size = (size_t)offsets[column * (rows + 1)];
        offsets[column * (rows + 1)] = (int32_t)to;
        to += size + PADDING;
    }
    for (size_t first = 0; first < rows; first += TILE_ROWS) {
        const size_t last = rows - first < TILE_ROWS ? rows : first + TILE_ROWS;
        for (size_t column = 0; column < width; column++) {
            int32_t *const ends = offsets + column * (rows + 1) + 1;
            size_t to = (size_t)ends[(Py_ssize_t)first - 1];
            for (size_t row = first; row < last; row++) {
                const size_t at = row * width + column;
                const size_t start = at ? (size_t)separators[at - 1] + 1 : 0;
                const size_t size = (size_t)separators[at] - start;
                if (!size) {
                    clear_bit(columns->validity, column * rows + row);
                    columns->nulls++;
                } else if ((Py_ssize_t)column != columns->time_at) {
                    to += copy_value(columns->texts + to, columns->data + start, size, columns->size - start);
                }
                ends[row] = (int32_t)to;
            }
        }
    }
}

/* JSON */

typedef struct {
    const uint8_t *data;
    size_t size;
    const int32_t *separators; /* the ends of all cells */
    size_t rows, width;
    const int32_t *order;   /* the columns, as they occur in a line; each at most once */
    size_t columns;
    const uint8_t *between; /* the constant text of a line, up to the first value, between two and after the last one */
    const int32_t *between_ends;
} Lines;

/* A mask of the bytes that JSON escapes: the lowest one is exact. */
static uint64_t special_in_word(uint64_t word) {
    const uint64_t ones = 0x0101010101010101ull;
    const uint64_t quotes = word ^ (ones * '"'), backslashes = word ^ (ones * '\\');
    const uint64_t controls = (word - ones * ' ') & ~word;
    return (controls | ((quotes - ones) & ~quotes) | ((backslashes - ones) & ~backslashes)) & (ones * 0x80);
}

static uint8_t *write_escaped(uint8_t *to, uint8_t byte) {
    static const char digits[] = "0123456789abcdef";
    *to++ = '\\';
    switch (byte) {
    case '\b': *to++ = 'b'; break;
    case '\t': *to++ = 't'; break;
    case '\n': *to++ = 'n'; break;
    case '\f': *to++ = 'f'; break;
    case '\r': *to++ = 'r'; break;
    case '"':
    case '\\': *to++ = byte; break;
    default:
        memcpy(to, "u00", 3);
        to[3] = (uint8_t)digits[byte >> 4];
        to[4] = (uint8_t)digits[byte & 15];
        to += 5;
    }
    return to;
}

/* Write the value of a cell as the content of a JSON string; up to PADDING more bytes are written. */
static uint8_t *write_string(uint8_t *to, const uint8_t *cell, size_t size, size_t room) {
    const int is_quoted = size >= 2 && *cell == '"';
    if (is_quoted) {
        cell++;
        size -= 2;
        room--;
    }
    while (size) {
        uint8_t part[8] = {0};
        const size_t count = size < 8 ? size : 8;
        memcpy(part, cell, room < 8 ? count : 8);
        memcpy(to, part, 8);
        uint64_t special = special_in_word(load_word(part));
        if (count < 8)
            special &= ((uint64_t)1 << (8 * count)) - 1;
        size_t done = count;
        if (special) {
            done = (size_t)__builtin_ctzll(special) / 8;
            to = write_escaped(to + done, cell[done]);
            done += is_quoted && cell[done] == '"' && done + 1 < size ? 2 : 1; /* two quotes stand for one */
        } else {
            to += count;
        }
        cell += done;
        size -= done;
        room -= done;
    }
    return to;
}

/* The most bytes that a record may take as a line. */
static size_t line_bound(const Lines *lines, size_t row) {
    const size_t begin = row ? (size_t)lines->separators[row * lines->width - 1] + 1 : 0;
    const size_t end = (size_t)lines->separators[(row + 1) * lines->width - 1] + 1;
    /* A byte becomes six at most, as in \u001f; with its separator, an empty cell becomes null. */
    return 6 * (end - begin) + (size_t)lines->between_ends[lines->columns] + PADDING;
}

/* Write the records from `row` on that are sure to fit. Returns the number of the next one. */
static size_t write_lines(const Lines *lines, size_t row, uint8_t *out, size_t capacity, size_t *written) {
    uint8_t *to = out;
    for (; row < lines->rows && line_bound(lines, row) <= capacity - (size_t)(to - out); row++) {
        size_t begin = 0;
        for (size_t position = 0; position <= lines->columns; position++) {
            const size_t end = (size_t)lines->between_ends[position];
            copy_padded(to, lines->between + begin, end - begin, end - begin + PADDING);
            to += end - begin;
            begin = end;
            if (position == lines->columns)
                break;
            const size_t at = row * lines->width + (size_t)lines->order[position];
            const size_t start = at ? (size_t)lines->separators[at - 1] + 1 : 0;
            const size_t size = (size_t)lines->separators[at] - start;
            if (size) {
                *to++ = '"';
                to = write_string(to, lines->data + start, size, lines->size - start);
                *to++ = '"';
            } else {
                memcpy(to, "null", 4);
                to += 4;
            }
        }
    }
    *written = (size_t)(to - out);
    return row;
}

/* Python */

static int take_buffer(PyObject *from, Py_buffer *view, int flags, Py_ssize_t item, const char *name) {
    if (PyObject_GetBuffer(from, view, flags) < 0)
        return -1;
    if (view->len % item) {
        PyBuffer_Release(view);
        PyErr_Format(PyExc_ValueError, "%s: not a multiple of %zd bytes", name, item);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(scan_doc, "scan(data, size, width, key_at, time_at, start, end, separators, keys, others, way)\n--\n\n"
                       "See compiled_scan.py.");

static PyObject *scan(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *given[6];
    Py_ssize_t size, width, key_at, time_at;
    int way;
    if (!PyArg_ParseTuple(arguments, "OnnnnOOOOOi:scan", &given[0], &size, &width, &key_at, &time_at, &given[1], &given[2],
                          &given[3], &given[4], &given[5], &way))
        return NULL;
    static const Py_ssize_t items[6] = {1, 1, 1, sizeof(int32_t), sizeof(uint64_t), sizeof(int32_t)};
    static const char *const names[6] = {"data", "start", "end", "separators", "keys", "others"};
    Py_buffer views[6];
    PyObject *result = NULL;
    int taken = 0;
    for (; taken < 6; taken++) {
        const int flags = taken == 1 || taken == 2 ? PyBUF_SIMPLE : PyBUF_WRITABLE;
        if (take_buffer(given[taken], &views[taken], flags, items[taken], names[taken]) < 0)
            goto end;
    }
    Way ways[MAX_WAYS];
    const int count = ways_here(ways);
    if (way < 0)
        way = count - 1;
    if (size < 0 || size > views[0].len || size > INT32_MAX || width < 0 || key_at < 0 || time_at < -1 || way >= count ||
        (width && (key_at >= width || time_at >= width)) ||
        (time_at >= 0 && (views[1].len != INSTANT || views[2].len != INSTANT))) {
        PyErr_SetString(PyExc_ValueError, "size, width, key_at, time_at, start, end or way is out of range");
        goto end;
    }
    const size_t keys = (size_t)views[4].len / sizeof(uint64_t), others = (size_t)views[5].len / sizeof(int32_t);
    Scan work = {
        .data = views[0].buf,
        .size = (size_t)size,
        .width = (size_t)width,
        .key_at = (size_t)key_at,
        .time_at = time_at,
        .start = views[1].buf,
        .end = views[2].buf,
        .separators = views[3].buf,
        .max_separators = (size_t)views[3].len / sizeof(int32_t),
        .keys = views[4].buf,
        .others = views[5].buf,
        .max_rows = keys < others ? keys : others,
    };
    size_t length;
    Py_BEGIN_ALLOW_THREADS;
    find_records(&work, ways[way].make);
    length = work.returns ? remove_returns(&work) : work.used;
    Py_END_ALLOW_THREADS;
    result = Py_BuildValue("nnnnnn", (Py_ssize_t)work.rows, (Py_ssize_t)work.width, (Py_ssize_t)work.used,
                           (Py_ssize_t)length, (Py_ssize_t)work.outside, (Py_ssize_t)work.other_count);
end:
    while (taken)
        PyBuffer_Release(&views[--taken]);
    return result;
}

/* Take several buffers, or none; `arguments` are as many objects. */
static int take_buffers(PyObject *const *arguments, Py_buffer *views, int count, const Py_ssize_t *items, int writable) {
    for (int at = 0; at < count; at++) {
        if (take_buffer(arguments[at], &views[at], at >= writable ? PyBUF_WRITABLE : PyBUF_SIMPLE, items[at], "buffer") < 0) {
            while (at)
                PyBuffer_Release(&views[--at]);
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(equal_doc, "equal(file, offsets, data, starts, ends, results)\n--\n\n"
                        "See compare.py. Raises OSError.");

static PyObject *equal(PyObject *module, PyObject *arguments) {
    (void)module;
    static const Py_ssize_t items[5] = {sizeof(int64_t), 1, sizeof(int64_t), sizeof(int64_t), 1};
    PyObject *given[5];
    Py_buffer views[5];
    int file;
    if (!PyArg_ParseTuple(arguments, "iOOOOO:equal", &file, &given[0], &given[1], &given[2], &given[3], &given[4]))
        return NULL;
    if (take_buffers(given, views, 5, items, 4) < 0)
        return NULL;
    const int64_t *offsets = views[0].buf, *starts = views[2].buf, *ends = views[3].buf;
    const uint8_t *data = views[1].buf;
    const int64_t size = views[1].len;
    uint8_t *results = views[4].buf;
    const Py_ssize_t count = views[4].len;
    int is_valid = views[0].len == count * 8 && views[2].len == count * 8 && views[3].len == count * 8, error = 0;
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t at = 0; is_valid && at < count; at++) {
        const int64_t bytes = ends[at] - starts[at];
        is_valid = 0 <= starts[at] && starts[at] <= ends[at] && ends[at] <= size && offsets[at] >= 0;
        if (is_valid && file < 0)
            is_valid = offsets[at] <= size - bytes;
        if (!is_valid)
            break;
        const int found = file < 0 ? !memcmp(data + offsets[at], data + starts[at], (size_t)bytes)
                                   : file_equals(file, offsets[at], data + starts[at], (size_t)bytes);
        if (found < 0) {
            error = errno;
            break;
        }
        results[at] = (uint8_t)found;
    }
    Py_END_ALLOW_THREADS;
    for (int at = 0; at < 5; at++)
        PyBuffer_Release(&views[at]);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!is_valid) {
        PyErr_SetString(PyExc_ValueError, "rows are out of range");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Whether the ends of cells ascend, with a byte for each separator, and lie within the data. */
static int are_ends(const int32_t *separators, size_t count, Py_ssize_t size) {
    for (size_t at = 0; at < count; at++) {
        if ((at ? separators[at] <= separators[at - 1] : separators[at] < 0) || separators[at] >= size)
            return 0;
    }
    return 1;
}

PyDoc_STRVAR(reorder_doc, "reorder(data, separators, width, order, out, out_separators)\n--\n\n"
                          "See compiled_scan.py.");

static PyObject *reorder(PyObject *module, PyObject *arguments) {
    (void)module;
    static const Py_ssize_t items[5] = {1, sizeof(int32_t), sizeof(int32_t), 1, sizeof(int32_t)};
    PyObject *given[5], *result = NULL;
    Py_buffer views[5];
    Py_ssize_t width;
    if (!PyArg_ParseTuple(arguments, "OOnOOO:reorder", &given[0], &given[1], &width, &given[2], &given[3], &given[4]))
        return NULL;
    if (take_buffers(given, views, 5, items, 3) < 0)
        return NULL;
    const int32_t *separators = views[1].buf, *order = views[2].buf;
    const size_t fields = (size_t)views[1].len / sizeof(int32_t), columns = (size_t)views[2].len / sizeof(int32_t);
    const size_t rows = width > 0 ? fields / (size_t)width : 0;
    /* Each field is copied once at most, with a separator. */
    int is_valid = width > 0 && columns > 0 && fields % (size_t)width == 0 &&
                   (size_t)views[4].len / sizeof(int32_t) >= rows * columns &&
                   views[3].len >= views[0].len + (Py_ssize_t)(rows * columns) && views[3].len <= INT32_MAX;
    for (size_t at = 0; is_valid && at < columns; at++) {
        is_valid = -1 <= order[at] && order[at] < width;
        for (size_t other = 0; is_valid && other < at; other++)
            is_valid = order[at] < 0 || order[at] != order[other];
    }
    is_valid = is_valid && are_ends(separators, fields, views[0].len);
    if (is_valid) {
        size_t size;
        Py_BEGIN_ALLOW_THREADS;
        size = copy_in_order(views[0].buf, separators, rows, (size_t)width, order, columns, views[3].buf, views[4].buf);
        Py_END_ALLOW_THREADS;
        result = PyLong_FromSize_t(size);
    } else {
        PyErr_SetString(PyExc_ValueError, "fields, order or buffers are out of range");
    }
    for (int at = 0; at < 5; at++)
        PyBuffer_Release(&views[at]);
    return result;
}

PyDoc_STRVAR(invalid_utf8_doc, "invalid_utf8(data)\n--\n\n"
                               "Where the first sequence that is not valid UTF-8 starts, or -1.");

static PyObject *invalid_utf8(PyObject *module, PyObject *data) {
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t found;
    Py_BEGIN_ALLOW_THREADS;
    found = (Py_ssize_t)find_invalid_utf8(view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS;
    if (found == view.len)
        found = -1;
    PyBuffer_Release(&view);
    return PyLong_FromSsize_t(found);
}

PyDoc_STRVAR(columns_doc,
             "columns(data, separators, width, time_at, offsets, validity, texts, instants, instant_validity)\n--\n\n"
             "See parquet.py.");

static PyObject *columns(PyObject *module, PyObject *arguments) {
    (void)module;
    static const Py_ssize_t items[7] = {1, sizeof(int32_t), sizeof(int32_t), 1, 1, sizeof(int64_t), 1};
    PyObject *given[7], *result = NULL;
    Py_buffer views[7];
    Py_ssize_t width, time_at;
    if (!PyArg_ParseTuple(arguments, "OOnnOOOOO:columns", &given[0], &given[1], &width, &time_at, &given[2], &given[3],
                          &given[4], &given[5], &given[6]))
        return NULL;
    if (take_buffers(given, views, 7, items, 2) < 0)
        return NULL;
    const size_t cells = (size_t)views[1].len / sizeof(int32_t), rows = width > 0 ? cells / (size_t)width : 0;
    const size_t size = (size_t)views[0].len, bits = (cells + 7) / 8, row_bits = (rows + 7) / 8;
    const int has_time = time_at >= 0;
    int is_valid = width > 0 && -1 <= time_at && time_at < width && cells % (size_t)width == 0 &&
                   size + (size_t)width * PADDING <= (size_t)INT32_MAX &&
                   (size_t)views[2].len / sizeof(int32_t) >= cells + (size_t)width && (size_t)views[3].len >= bits &&
                   (size_t)views[4].len >= size + (size_t)width * PADDING &&
                   (!has_time || ((size_t)views[5].len / sizeof(int64_t) >= rows && (size_t)views[6].len >= row_bits)) &&
                   are_ends(views[1].buf, cells, views[0].len);
    if (is_valid) {
        Columns work = {
            .data = views[0].buf,
            .size = size,
            .separators = views[1].buf,
            .rows = rows,
            .width = (size_t)width,
            .time_at = time_at,
            .offsets = views[2].buf,
            .validity = views[3].buf,
            .texts = views[4].buf,
            .instants = views[5].buf,
            .instant_validity = views[6].buf,
        };
        int is_canonical_time = has_time;
        Py_BEGIN_ALLOW_THREADS;
        memset(work.validity, 0xFF, bits);
        if (has_time) {
            memset(work.instant_validity, 0xFF, row_bits);
            is_canonical_time = read_instants(&work);
            if (!is_canonical_time)
                work.time_at = -1;
        }
        copy_columns(&work);
        Py_END_ALLOW_THREADS;
        result = Py_BuildValue("nN", (Py_ssize_t)work.nulls, PyBool_FromLong(is_canonical_time));
    } else {
        PyErr_SetString(PyExc_ValueError, "cells or buffers are out of range");
    }
    for (int at = 0; at < 7; at++)
        PyBuffer_Release(&views[at]);
    return result;
}

PyDoc_STRVAR(json_lines_doc, "json_lines(data, separators, width, row, order, between, between_ends, out)\n--\n\n"
                             "See ndjson.py.");

static PyObject *json_lines(PyObject *module, PyObject *arguments) {
    (void)module;
    static const Py_ssize_t items[6] = {1, sizeof(int32_t), sizeof(int32_t), 1, sizeof(int32_t), 1};
    PyObject *given[6], *result = NULL;
    Py_buffer views[6];
    Py_ssize_t width, row;
    if (!PyArg_ParseTuple(arguments, "OOnnOOOO:json_lines", &given[0], &given[1], &width, &row, &given[2], &given[3],
                          &given[4], &given[5]))
        return NULL;
    if (take_buffers(given, views, 6, items, 5) < 0)
        return NULL;
    const size_t cells = (size_t)views[1].len / sizeof(int32_t), rows = width > 0 ? cells / (size_t)width : 0;
    const Lines work = {
        .data = views[0].buf,
        .size = (size_t)views[0].len,
        .separators = views[1].buf,
        .rows = rows,
        .width = (size_t)width,
        .order = views[2].buf,
        .columns = (size_t)views[2].len / sizeof(int32_t),
        .between = views[3].buf,
        .between_ends = views[4].buf,
    };
    int is_valid = width > 0 && cells % (size_t)width == 0 && row >= 0 && (size_t)row <= rows &&
                   (size_t)views[4].len / sizeof(int32_t) == work.columns + 1 &&
                   are_ends(work.separators, cells, views[0].len);
    for (size_t at = 0; is_valid && at <= work.columns; at++)
        is_valid = work.between_ends[at] >= (at ? work.between_ends[at - 1] : 0);
    is_valid = is_valid && (Py_ssize_t)work.between_ends[work.columns] + PADDING <= views[3].len;
    for (size_t at = 0; is_valid && at < work.columns; at++) {
        is_valid = 0 <= work.order[at] && work.order[at] < width;
        for (size_t other = 0; is_valid && other < at; other++)
            is_valid = work.order[at] != work.order[other];
    }
    if (is_valid) {
        size_t size, next;
        Py_BEGIN_ALLOW_THREADS;
        next = write_lines(&work, (size_t)row, views[5].buf, (size_t)views[5].len, &size);
        Py_END_ALLOW_THREADS;
        result = Py_BuildValue("nn", (Py_ssize_t)next, (Py_ssize_t)size);
    } else {
        PyErr_SetString(PyExc_ValueError, "cells, order, constants or row are out of range");
    }
    for (int at = 0; at < 6; at++)
        PyBuffer_Release(&views[at]);
    return result;
}

PyDoc_STRVAR(ways_doc, "ways()\n--\n\nThe comparisons that this processor has, the fastest last.");

static PyObject *ways(PyObject *module, PyObject *none) {
    (void)module, (void)none;
    Way found[MAX_WAYS];
    const int count = ways_here(found);
    PyObject *names = PyTuple_New(count);
    for (int at = 0; names && at < count; at++) {
        PyObject *name = PyUnicode_FromString(found[at].name);
        if (!name || PyTuple_SetItem(names, at, name) < 0)
            Py_CLEAR(names);
    }
    return names;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, scan_doc},
    {"reorder", reorder, METH_VARARGS, reorder_doc},
    {"equal", equal, METH_VARARGS, equal_doc},
    {"invalid_utf8", invalid_utf8, METH_O, invalid_utf8_doc},
    {"columns", columns, METH_VARARGS, columns_doc},
    {"json_lines", json_lines, METH_VARARGS, json_lines_doc},
    {"ways", ways, METH_NOARGS, ways_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "bulkpull.rows._kernel",
    .m_doc = "CSV blocks, scanned and rendered by compiled code.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    return PyModuleDef_Init(&definition);
}
